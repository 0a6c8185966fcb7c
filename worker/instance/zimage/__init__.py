"""zimage — the reference instance: Z-Image-Turbo behind the API of API.md.

    server    HTTP: decodes a request, asks the table, encodes the answer
    order     one submitted job, checked field by field
    jobs      the table of jobs: queue, states, long polls, what is kept; no torch in it
    engine    the GPU thread: takes the next job, draws it, watches the clock
    artist    text -> denoising -> decoding with diffusers' ZImagePipeline, never waiting for the GPU
    denoise   a step of the transformer as a CUDA graph; what is the same in all steps is done once
    products  the matrix products of the transformer: joined, or in 8 bits
    compiled  which parts are compiled for which shapes, and when the next one may be
    encode    pixels -> png, jpeg or webp, in threads beside the GPU
    model     loads the pipeline, or builds one with random weights

Threads: one a connection, one for the GPU, a few that encode. Only the GPU thread calls the model.
"""
VERSION = "1.1"

"""power — watts and clock of the first GPU while something runs, by one nvidia-smi that is asked to repeat itself."""
import shutil
import statistics
import subprocess
import threading

EVERY_MS = 200


class Power:
    """with Power(True) as power: ...; then power.means()"""

    def __init__(self, wanted):
        self.wanted = wanted and shutil.which("nvidia-smi") is not None
        self.samples, self.popen, self.thread = [], None, None

    def __enter__(self):
        if self.wanted:
            self.popen = subprocess.Popen(
                ["nvidia-smi", "-i", "0", "--query-gpu=power.draw,clocks.sm", "--format=csv,noheader,nounits",
                 "-lms", str(EVERY_MS)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.thread = threading.Thread(target=self._read, daemon=True)
            self.thread.start()
        return self

    def _read(self):
        for line in self.popen.stdout:
            try:
                watts, mhz = map(float, line.split(","))
            except ValueError:
                continue # "[N/A]"
            self.samples.append((watts, mhz))

    def __exit__(self, *_):
        if self.popen is not None:
            self.popen.terminate()
            self.popen.wait(10)
            self.thread.join(10)

    def means(self):
        """Without the first quarter: the card's own mean lags behind, and a load begins cold."""
        settled = self.samples[len(self.samples) // 4:]
        if not settled:
            return {}
        return {"watts": statistics.mean(w for w, _ in settled), "mhz": statistics.mean(m for _, m in settled)}

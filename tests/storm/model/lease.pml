/* The life of a job, its lease, the leader and the fenced store: a bounded model for Spin, true to
 * proto/PROTOCOL.md. One process; every step of the system is one guarded d_step, so the state graph
 * is the interleaving of all actors with all messages unordered. See README.md, which also says
 * which flag stands for which rule.
 * Flags: FB = fault budget (shared by all faults); FULL = a deposed leader goes on deciding;
 * M_* = break the design in one way. */
#ifndef FB
#define FB 2
#endif
#ifndef MAXATT
#define MAXATT 2
#endif
#ifndef NEP
#define NEP 3             /* highest epoch: NEP-1 takeovers */
#endif
#ifndef NJ
#define NJ 2
#endif
/* job states; sU = the broker has not read this record yet */
#define sN 0
#define sQ 1
#define sR 2
#define sS 3
#define sF 4
#define sC 5
#define sX 6
#define sU 7
#define TERM(s) ((s) >= sS && (s) <= sX)
/* why a commit is in flight */
#define ySUB 1
#define yGRA 2
#define yDON 3
#define yFAI 4
#define yREQ 5
#define yCAN 6
#define yEXP 7
/* a lease: attempt, incarnation, epoch at the grant; the worker is kept beside it */
#define LZ(a,i,e) ((a) + 4*(i) + 8*(e))
#define ATT(x) ((x) & 3)
#define INC(x) (((x) >> 2) & 1)
#define EPO(x) ((x) >> 3)
#define BJ(b,j) ((b)*2+(j))
#define WJ(w,j) ((w)*2+(j))
#define BW(b,w) ((b)*2+(w))

#ifdef M_NOFENCE
#define FENCE(tok) true
#else
#define FENCE(tok) ((tok) == r_ep)
#endif
#ifdef FULL
#define LEAD(b) (b_ld[b])
#else
#define LEAD(b) (b_ld[b] && b_tok[b] == r_ep)
#endif
#ifdef M_SAMEFILE
#define FILE(j,a) ((j)*4)
#else
#define FILE(j,a) ((j)*4+(a))
#endif
#define PIC(w,a) (1 + (w) + 4*(a))
#ifdef M_NODEDUP
#define DEDUP false
#else
#define DEDUP true
#endif

/* Redis */
byte r_ep = 1, r_st[2], r_lz[2], r_w[2];
byte t_st[2], t_lz[2];                 /* first terminal state seen: for P2 only */
/* brokers: believed leadership, token, memory, one in-flight transition a job, sessions (1+incarnation) */
bit  b_ld[2]; byte b_tok[2];
byte m_st[4], m_lz[4], m_w[4];
byte p_k[4], p_st[4], p_lz[4], p_w[4], p_y[4]; bit p_ap[4];
byte v[4];
/* a commit left behind on a dead connection, still to be executed by Redis */
bit g_on, g_done; byte g_b, g_tok, g_j, g_st, g_lz, g_w;
/* gateway and client */
bit s_on[2] = 1, s_acc[2]; byte c_st[2];      /* c_st: 1 asked, 2 told CANCELLED, 3 told "already succeeded", 4 other end */
/* workers: 1 up, 0 paused, 2 host gone */
byte w_up[2] = 1; bit w_inc[2]; byte w_ep[2] = 1;
byte k_st[4], k_lz[4];                 /* 1 drawing, 2 finished and uploaded, 3 failed; kept until answered */
/* messages (sets, unordered) */
byte n_job[4], n_done[4], n_ans[4], n_anl[4];  /* n_ans: 1 ACK 2 STALE 3 CANCEL, n_anl its lease */
bit h_on[2]; bit h_inc[2]; byte h_ep[2], h_lz[4];
/* pictures: FILE(job,attempt) -> who wrote it */
byte pic[8];
byte fb = FB; bit stop, dl = 1;
#ifdef NOCANCEL
bit cn = 0;
#else
bit cn = 1;
#endif

#define FREEZE(b,j) (p_k[BJ(b,j)] == 0)
#define KNOWN(b,j)  (m_st[BJ(b,j)] != sU)
#define PEND(b,j,st,lz,w,y) \
  p_k[BJ(b,j)]=1; p_st[BJ(b,j)]=st; p_lz[BJ(b,j)]=lz; p_w[BJ(b,j)]=w; p_y[BJ(b,j)]=y; p_ap[BJ(b,j)]=0
#define PCLR(b,j) \
  p_k[BJ(b,j)]=0; p_st[BJ(b,j)]=0; p_lz[BJ(b,j)]=0; p_w[BJ(b,j)]=0; p_y[BJ(b,j)]=0; p_ap[BJ(b,j)]=0
#ifdef M_NOATT
#define NEXT(l) LZ(ATT(l),0,0)
#else
#define NEXT(l) LZ(ATT(l)+1,0,0)
#endif
#ifdef M_NOLIMIT
#define LEFT(l) (ATT(l) < 3)
#else
#define LEFT(l) (ATT(l) < MAXATT)
#endif
#define REQ(b,j,w,y) \
  PEND(b,j,(LEFT(m_lz[BJ(b,j)]) -> sQ : sF),(LEFT(m_lz[BJ(b,j)]) -> NEXT(m_lz[BJ(b,j)]) : m_lz[BJ(b,j)]),w,y)
#define ANS(w,j,a,l) n_ans[WJ(w,j)]=a; n_anl[WJ(w,j)]=l

/* P2, P3, P7 and the limit, checked after every step that can touch them */
#define P3(j) assert(r_st[j] != sS || pic[FILE(j,ATT(r_lz[j]))] == PIC(r_w[j],ATT(r_lz[j])))
#define CHECK(j) \
  assert(t_st[j] == 0 || (r_st[j] == t_st[j] && r_lz[j] == t_lz[j])); \
  if :: t_st[j] == 0 && TERM(r_st[j]) -> t_st[j] = r_st[j]; t_lz[j] = r_lz[j] :: else fi; \
  P3(j); P9(j); assert(ATT(r_lz[j]) <= MAXATT); \
  assert(c_st[j] != 2 || r_st[j] == sC); assert(c_st[j] != 3 || r_st[j] == sS)

#ifdef ASK_RAN         /* question: can a job fail although no worker ever had it? */
bit ran[2];
#define RAN(j) ran[j] = 1
#define P9(j) assert(r_st[j] != sF || ran[j])
#else
#define RAN(j) r_dummy = 0
#define P9(j) r_dummy = 0
#endif
#define WRITE(j,st,lz,w) r_st[j]=st; r_lz[j]=lz; r_w[j]=((st) == sQ -> 0 : w)

/* does the lease that a message carries equal the one the broker holds? */
#ifdef M_BYJOB
#define MATCH(b,j,w,l) (m_st[BJ(b,j)] == sR)
#elif defined(M_EPOCHCMP)
#define MATCH(b,j,w,l) (m_st[BJ(b,j)] == sR && m_lz[BJ(b,j)] == l && m_w[BJ(b,j)] == w && EPO(l) == b_tok[b])
#elif defined(M_NOINCRES)
#define MATCH(b,j,w,l) (m_st[BJ(b,j)] == sR && ATT(m_lz[BJ(b,j)]) == ATT(l))
#else
#define MATCH(b,j,w,l) (m_st[BJ(b,j)] == sR && m_lz[BJ(b,j)] == l && m_w[BJ(b,j)] == w)
#endif
#define SAME(b,j,w,l) (m_lz[BJ(b,j)] == l && m_w[BJ(b,j)] == w)

/* may this broker say STALE now? */
#ifdef M_STALEUNFENCED
#define MAYSTALE(b) true
#else
#define MAYSTALE(b) (b_tok[b] == r_ep)
#endif
#ifdef M_UNLOADEDSTALE
#define READY(b,j) true
#else
#define READY(b,j) KNOWN(b,j)
#endif

/* ---------------- gateway ---------------- */
#define SUBMIT(b,j) :: d_step { s_on[j] && b_ld[b] && FREEZE(b,j) && KNOWN(b,j) && \
      (m_st[BJ(b,j)] != sN || LEAD(b)) -> \
    s_on[j] = 0; \
    if :: m_st[BJ(b,j)] != sN -> ACCEPTED(j) \
       :: else -> PEND(b,j,sQ,LZ(1,0,0),0,ySUB); EARLY202(j) fi }
#define ACCEPTED(j) s_acc[j] = 1; assert(r_st[j] != sN)      /* P6 */
#ifdef M_EARLY202
#define EARLY202(j) ACCEPTED(j)
#else
#define EARLY202(j) skip
#endif
#define RETRY(j) :: d_step { fb > 0 && !s_on[j] && j == 0 -> fb--; s_on[j] = 1 }
#ifdef M_NOLOOKUP    /* a keyed submit is taken as new while the record was not read */
#define SUBMITX(b,j) :: d_step { s_on[j] && LEAD(b) && FREEZE(b,j) && !KNOWN(b,j) -> \
    s_on[j] = 0; m_st[BJ(b,j)] = sN; PEND(b,j,sQ,LZ(1,0,0),0,ySUB) }
#else
#define SUBMITX(b,j)
#endif
#define ASK(j) :: d_step { cn && !stop && s_acc[j] && c_st[j] == 0 -> cn = 0; c_st[j] = 1 }
#ifdef M_NOFREEZE
#define CANFREE(b,j) (FREEZE(b,j) || (p_k[BJ(b,j)] == 2 && p_y[BJ(b,j)] == yDON))
#else
#define CANFREE(b,j) FREEZE(b,j)
#endif
#define CANCEL(b,j) :: d_step { c_st[j] == 1 && b_ld[b] && CANFREE(b,j) && KNOWN(b,j) && m_st[BJ(b,j)] != sN && \
      (TERM(m_st[BJ(b,j)]) || LEAD(b)) -> \
    if :: m_st[BJ(b,j)] == sC -> c_st[j] = 2 :: m_st[BJ(b,j)] == sS -> c_st[j] = 3 \
       :: m_st[BJ(b,j)] == sF || m_st[BJ(b,j)] == sX -> c_st[j] = 4 \
       :: else -> PEND(b,j,sC,m_lz[BJ(b,j)],m_w[BJ(b,j)],yCAN); EARLYCAN(b,j) fi; \
    CHECK(j) }
#ifdef M_EARLYCANCEL
#define EARLYCAN(b,j) c_st[j] = 2; r_dummy = 0
#else
#define EARLYCAN(b,j) r_dummy = 0
#endif
/* the asker repeats a cancel that a dead leader swallowed; a deadline limits waiting only */
#define EXPIRE(b,j) :: d_step { dl && !stop && LEAD(b) && FREEZE(b,j) && m_st[BJ(b,j)] == sQ -> \
    dl = 0; PEND(b,j,sX,m_lz[BJ(b,j)],m_w[BJ(b,j)],yEXP) }

/* ---------------- store ---------------- */
#define APPLY(b,j) :: d_step { p_k[BJ(b,j)] == 1 && FENCE(b_tok[b]) -> \
    P4(b_tok[b]); \
    if :: DEDUP && p_ap[BJ(b,j)] \
       :: else -> WRITE(j,p_st[BJ(b,j)],p_lz[BJ(b,j)],p_w[BJ(b,j)]) fi; \
    p_k[BJ(b,j)] = 2; \
    if :: g_on && g_b == b && g_j == j -> g_done = 1 :: else fi; \
    CHECK(j) }
#if defined(M_NOFENCE) && defined(M_NOP4)
#define P4(tok) r_dummy = 0
#else
#define P4(tok) assert((tok) == r_ep)
#endif
#define NOREPLY(b,j) :: d_step { fb > 0 && p_k[BJ(b,j)] == 2 && b_ld[b] -> fb--; p_k[BJ(b,j)] = 1; p_ap[BJ(b,j)] = 1 }
#define GHOST(b,j) :: d_step { fb > 0 && p_k[BJ(b,j)] == 1 && !g_on && b_ld[b] && FENCE(b_tok[b]) -> fb--; \
    g_on = 1; g_done = p_ap[BJ(b,j)]; g_b = b; g_j = j; g_tok = b_tok[b]; \
    g_st = p_st[BJ(b,j)]; g_lz = p_lz[BJ(b,j)]; g_w = p_w[BJ(b,j)] }
#define GHOSTRUN :: d_step { g_on -> \
    if :: FENCE(g_tok) && !(DEDUP && g_done) -> P4(g_tok); WRITE(g_j,g_st,g_lz,g_w); \
          if :: !g_done && b_ld[g_b] && b_tok[g_b] == g_tok && p_k[BJ(g_b,g_j)] == 1 -> p_ap[BJ(g_b,g_j)] = 1 :: else fi; \
          CHECK(g_j) \
       :: else fi; \
    g_on = 0; g_done = 0; g_b = 0; g_tok = 0; g_j = 0; g_st = 0; g_lz = 0; g_w = 0 }

/* ---------------- broker: the reply of a commit lets the effects out ---------------- */
#define REPLY(b,j) :: d_step { p_k[BJ(b,j)] == 2 && b_ld[b] -> \
    if :: p_y[BJ(b,j)] == ySUB -> ACCEPTED(j) \
       :: p_y[BJ(b,j)] == yGRA -> SENDJOB(b,j) \
       :: p_y[BJ(b,j)] == yDON -> ANS(p_w[BJ(b,j)],j,1,p_lz[BJ(b,j)]) \
       :: p_y[BJ(b,j)] == yFAI -> ANS(p_w[BJ(b,j)],j,1,m_lz[BJ(b,j)]) \
       :: p_y[BJ(b,j)] == yCAN -> c_st[j] = 2; \
            if :: m_st[BJ(b,j)] == sR -> ANS(m_w[BJ(b,j)],j,3,m_lz[BJ(b,j)]) :: else fi \
       :: p_y[BJ(b,j)] == yEXP -> skip \
       :: p_y[BJ(b,j)] == yREQ -> skip \
    fi; \
    m_st[BJ(b,j)] = p_st[BJ(b,j)]; m_lz[BJ(b,j)] = p_lz[BJ(b,j)]; \
    m_w[BJ(b,j)] = (p_st[BJ(b,j)] == sQ -> 0 : p_w[BJ(b,j)]); \
    PCLR(b,j); CHECK(j) }
#define SENDJOB(b,j) n_job[WJ(p_w[BJ(b,j)],j)] = p_lz[BJ(b,j)]
#define GRANT(b,j,w) :: d_step { LEAD(b) && FREEZE(b,j) && m_st[BJ(b,j)] == sQ && v[BW(b,w)] != 0 && \
      !(m_st[BJ(b,1-j)] == sR && m_w[BJ(b,1-j)] == w) && !(p_k[BJ(b,1-j)] != 0 && p_y[BJ(b,1-j)] == yGRA && p_w[BJ(b,1-j)] == w) -> \
    PEND(b,j,sR,LZ(ATT(m_lz[BJ(b,j)]),v[BW(b,w)]-1,b_tok[b]),w,yGRA); EARLYJOB(b,j) }
#ifdef M_EARLYJOB
#define EARLYJOB(b,j) SENDJOB(b,j)
#else
#define EARLYJOB(b,j) r_dummy = 0
#endif
#define DONE(b,j,w) :: d_step { n_done[WJ(w,j)] != 0 && b_ld[b] && FREEZE(b,j) && READY(b,j) && \
      (MATCH(b,j,w,(n_done[WJ(w,j)] & 63)) -> LEAD(b) : \
       ((m_st[BJ(b,j)] == sS && SAME(b,j,w,(n_done[WJ(w,j)] & 63))) || MAYSTALE(b))) -> \
    if :: MATCH(b,j,w,(n_done[WJ(w,j)] & 63)) -> \
          if :: n_done[WJ(w,j)] >= 64 -> REQ(b,j,w,yFAI) \
             :: else -> PEND(b,j,sS,(n_done[WJ(w,j)] & 63),w,yDON) fi; EARLYACK(b,j,w) \
       :: else -> if :: DUPACK && m_st[BJ(b,j)] == sS && SAME(b,j,w,(n_done[WJ(w,j)] & 63)) -> ANS(w,j,1,(n_done[WJ(w,j)] & 63)) \
                     :: else -> ANS(w,j,2,(n_done[WJ(w,j)] & 63)) fi fi; \
    n_done[WJ(w,j)] = 0 }
#ifdef M_DUPSTALE      /* a repeated DONE of a finished job is "any other lease" */
#define DUPACK false
#else
#define DUPACK true
#endif
#ifdef M_EARLYACK
#define EARLYACK(b,j,w) ANS(w,j,1,(n_done[WJ(w,j)] & 63))
#else
#define EARLYACK(b,j,w) r_dummy = 0
#endif
/* sweep of heartbeats: fenced, sees only silent workers */
#define EVICT(b,j,w) :: d_step { w_up[w] != 1 && LEAD(b) && FREEZE(b,j) && m_st[BJ(b,j)] == sR && m_w[BJ(b,j)] == w -> \
    v[BW(b,w)] = 0; REQ(b,j,w,yREQ) }
/* inventory: the worker's list of leases lacks one whose JOB can no longer arrive */
#ifdef M_NOINVENTORY
#define LOSTJOB(b,j,w)
#else
#ifdef M_NOINC
#define OWNINC(b,j,w) (INC(m_lz[BJ(b,j)]) == w_inc[w])
#else
#define OWNINC(b,j,w) true
#endif
#define LOSTJOB(b,j,w) :: d_step { OWNINC(b,j,w) && LEAD(b) && FREEZE(b,j) && m_st[BJ(b,j)] == sR && m_w[BJ(b,j)] == w && w_up[w] == 1 && \
      !h_on[w] && w_ep[w] == b_tok[b] && k_lz[WJ(w,j)] != m_lz[BJ(b,j)] && n_job[WJ(w,j)] == 0 && n_done[WJ(w,j)] == 0 -> \
    REQ(b,j,w,yREQ) }
#endif
/* HELLO: adopt what matches, requeue what the worker no longer holds, refuse the rest */
#ifdef M_NOINC         /* a lease is adopted because the worker's name is right */
#define HELD(b,j,w) true
#elif defined(M_EPOCHCMP)
#define HELD(b,j,w) (h_lz[WJ(w,j)] == m_lz[BJ(b,j)] && EPO(m_lz[BJ(b,j)]) == b_tok[b])
#else
#define HELD(b,j,w) (h_lz[WJ(w,j)] == m_lz[BJ(b,j)])
#endif
#define HELLO1(b,j,w) \
    if :: KNOWN(b,j) && m_st[BJ(b,j)] == sR && m_w[BJ(b,j)] == w && !HELD(b,j,w) -> \
          /* P5: a live worker that holds the very lease is not robbed of it */ \
          assert(!(w_up[w] == 1 && k_st[WJ(w,j)] != 0 && k_lz[WJ(w,j)] == m_lz[BJ(b,j)] && n_job[WJ(w,j)] == 0 && h_lz[WJ(w,j)] == m_lz[BJ(b,j)])); \
          REQ(b,j,w,yREQ) :: else fi; \
    if :: h_lz[WJ(w,j)] != 0 && SAME(b,j,w,h_lz[WJ(w,j)]) && DUPACK && m_st[BJ(b,j)] == sS -> \
          ANS(w,j,1,h_lz[WJ(w,j)]) \
       :: h_lz[WJ(w,j)] != 0 && !(SAME(b,j,w,h_lz[WJ(w,j)]) && (m_st[BJ(b,j)] == sR || (DUPACK && m_st[BJ(b,j)] == sS))) -> \
          ANS(w,j,2,h_lz[WJ(w,j)]) :: else fi; \
    h_lz[WJ(w,j)] = 0
#define HELLO(b,w) :: d_step { h_on[w] && LEAD(b) && h_ep[w] == b_tok[b] && b_tok[b] == r_ep && \
      FREEZE(b,0) && FREEZE(b,1) && READY(b,0) && READY(b,1) -> \
    HELLO1(b,0,w); HELLO1(b,1,w); v[BW(b,w)] = 1 + h_inc[w]; h_on[w] = 0; h_inc[w] = 0; h_ep[w] = 0 }
/* leadership */
#define CLEAR(b,x) m_st[BJ(b,0)]=x; m_st[BJ(b,1)]=(NJ == 1 -> sN : x); m_lz[BJ(b,0)]=0; m_lz[BJ(b,1)]=0; m_w[BJ(b,0)]=0; m_w[BJ(b,1)]=0; \
    PCLR(b,0); PCLR(b,1); v[BW(b,0)]=0; v[BW(b,1)]=0
#define TAKEOVER(b) :: d_step { r_ep < NEP && !b_ld[b] && fb > 0 -> fb--; r_ep++; b_ld[b] = 1; b_tok[b] = r_ep; CLEAR(b,sU) }
#define STEPDOWN(b) :: d_step { b_ld[b] && b_tok[b] != r_ep -> b_ld[b] = 0; b_tok[b] = 0; CLEAR(b,sN) }
#ifdef M_NOREAD        /* ended jobs are not in `live`, so a new leader does not know them */
#define LOAD(b,j) :: d_step { b_ld[b] && m_st[BJ(b,j)] == sU && FREEZE(b,j) -> \
    if :: TERM(r_st[j]) -> m_st[BJ(b,j)] = sN \
       :: else -> m_st[BJ(b,j)] = r_st[j]; m_lz[BJ(b,j)] = r_lz[j]; m_w[BJ(b,j)] = r_w[j] fi }
#else
#define LOAD(b,j) :: d_step { b_ld[b] && m_st[BJ(b,j)] == sU && FREEZE(b,j) -> \
    m_st[BJ(b,j)] = r_st[j]; m_lz[BJ(b,j)] = r_lz[j]; m_w[BJ(b,j)] = r_w[j] }
#endif

/* ---------------- worker ---------------- */
#define GETJOB(w,j) :: d_step { n_job[WJ(w,j)] != 0 && w_up[w] == 1 -> \
    if :: INC(n_job[WJ(w,j)]) == w_inc[w] && ATT(n_job[WJ(w,j)]) > ATT(k_lz[WJ(w,j)]) -> \
          RAN(j); k_st[WJ(w,j)] = 1; k_lz[WJ(w,j)] = n_job[WJ(w,j)] :: else fi; n_job[WJ(w,j)] = 0 }
#define DRAW(w,j) :: d_step { k_st[WJ(w,j)] == 1 && w_up[w] == 1 -> \
    k_st[WJ(w,j)] = 2; pic[FILE(j,ATT(k_lz[WJ(w,j)]))] = PIC(w,ATT(k_lz[WJ(w,j)])); P3(j) }
#define BREAK(w,j) :: d_step { fb > 0 && k_st[WJ(w,j)] == 1 && w_up[w] == 1 -> fb--; k_st[WJ(w,j)] = 3 }
#ifdef M_NORESEND
#define MAYSEND(w,j) (k_st[WJ(w,j)] < 4)
#define SENT(w,j) k_st[WJ(w,j)] = k_st[WJ(w,j)] + 2
#else
#define MAYSEND(w,j) true
#define SENT(w,j) r_dummy = 0
#endif
#define SENDDONE(w,j) :: d_step { k_st[WJ(w,j)] >= 2 && w_up[w] == 1 && n_done[WJ(w,j)] == 0 && n_ans[WJ(w,j)] == 0 && MAYSEND(w,j) && \
      !DONEPENDING(w,j) -> \
    n_done[WJ(w,j)] = k_lz[WJ(w,j)] + (k_st[WJ(w,j)] == 3 || k_st[WJ(w,j)] == 5 -> 64 : 0); SENT(w,j) }
#define DP1(b,w,j) (b_ld[b] && p_k[BJ(b,j)] != 0 && (p_y[BJ(b,j)] == yDON || p_y[BJ(b,j)] == yFAI) && p_w[BJ(b,j)] == w)
#define DONEPENDING(w,j) (DP1(0,w,j) || DP1(1,w,j))
#ifdef STALEDELETES    /* question: what if STALE deleted the picture? */
#define FORGET(w,j) if :: n_ans[WJ(w,j)] == 2 && pic[FILE(j,ATT(k_lz[WJ(w,j)]))] == PIC(w,ATT(k_lz[WJ(w,j)])) -> \
    pic[FILE(j,ATT(k_lz[WJ(w,j)]))] = 0 :: else fi
#else
#define FORGET(w,j) r_dummy = 0
#endif
#define ANSWER(w,j) :: d_step { n_ans[WJ(w,j)] != 0 && w_up[w] == 1 -> \
    if :: n_anl[WJ(w,j)] == k_lz[WJ(w,j)] && k_lz[WJ(w,j)] != 0 -> \
          if :: n_ans[WJ(w,j)] == 1 -> /* P8: what is acknowledged is stored */ \
                assert(((k_st[WJ(w,j)] & 1) == 0 -> (r_st[j] == sS && r_lz[j] == k_lz[WJ(w,j)] && r_w[j] == w) \
                                        : !(r_st[j] == sR && r_lz[j] == k_lz[WJ(w,j)]))) \
             :: else -> /* P8: what is refused was not wanted */ \
                assert(!((r_st[j] == sR || r_st[j] == sS) && r_lz[j] == k_lz[WJ(w,j)] && r_w[j] == w)); \
                FORGET(w,j) fi; \
          k_st[WJ(w,j)] = 0; k_lz[WJ(w,j)] = 0 :: else fi; \
    n_ans[WJ(w,j)] = 0; n_anl[WJ(w,j)] = 0; P3(j) }
#define SAYHELLO(w) :: d_step { w_up[w] == 1 && w_ep[w] != r_ep && !h_on[w] -> \
    h_on[w] = 1; h_inc[w] = w_inc[w]; h_ep[w] = r_ep; w_ep[w] = r_ep; h_lz[WJ(w,0)] = k_lz[WJ(w,0)]; h_lz[WJ(w,1)] = k_lz[WJ(w,1)] }
#define NOHELLO(w) :: d_step { h_on[w] && h_ep[w] != r_ep -> h_on[w] = 0; h_inc[w] = 0; h_ep[w] = 0; h_lz[WJ(w,0)] = 0; h_lz[WJ(w,1)] = 0 }
#define PAUSE(w) :: d_step { fb > 0 && w_up[w] == 1 -> fb--; w_up[w] = 0 }
#define WAKE(w) :: d_step { w_up[w] == 0 -> w_up[w] = 1; w_ep[w] = 0 }
#define DIE(w) :: d_step { fb > 0 && w_up[w] == 1 && w_up[1-w] != 2 -> fb--; w_up[w] = 2; \
    k_st[WJ(w,0)]=0; k_st[WJ(w,1)]=0; k_lz[WJ(w,0)]=0; k_lz[WJ(w,1)]=0 }
#define RESTART(w) :: d_step { fb > 0 && w_up[w] == 1 && w_inc[w] == 0 -> fb--; w_inc[w] = 1; w_ep[w] = 0; \
    k_st[WJ(w,0)]=0; k_st[WJ(w,1)]=0; k_lz[WJ(w,0)]=0; k_lz[WJ(w,1)]=0 }
/* ---------------- network: lose, or leave a second copy ---------------- */
#define LOSEJOB(w,j)  :: d_step { fb > 0 && n_job[WJ(w,j)] != 0  -> fb--; n_job[WJ(w,j)] = 0 }
#define LOSEDONE(w,j) :: d_step { fb > 0 && n_done[WJ(w,j)] != 0 -> fb--; n_done[WJ(w,j)] = 0 }
#define LOSEANS(w,j)  :: d_step { fb > 0 && n_ans[WJ(w,j)] != 0  -> fb--; n_ans[WJ(w,j)] = 0; n_anl[WJ(w,j)] = 0 }
#define LOSEHELLO(w)  :: d_step { fb > 0 && h_on[w] -> fb--; h_on[w] = 0; h_inc[w] = 0; h_ep[w] = 0; w_ep[w] = 0; h_lz[WJ(w,0)] = 0; h_lz[WJ(w,1)] = 0 }
#define DUPJOB(w,j)   :: d_step { fb > 0 && w_up[w] == 1 && n_job[WJ(w,j)] == 0 && k_lz[WJ(w,j)] != 0 -> fb--; n_job[WJ(w,j)] = k_lz[WJ(w,j)] }
#define DUPDONE(w,j)  :: d_step { fb > 0 && k_st[WJ(w,j)] == 2 && n_done[WJ(w,j)] == 0 -> fb--; n_done[WJ(w,j)] = k_lz[WJ(w,j)] }
/* a DEAD worker's messages go nowhere */
#define SINK(w,j) :: d_step { w_up[w] == 2 && (n_job[WJ(w,j)] != 0 || n_ans[WJ(w,j)] != 0) -> n_job[WJ(w,j)] = 0; n_ans[WJ(w,j)] = 0; n_anl[WJ(w,j)] = 0 }

#if NJ == 1
#define BJW(M) M(0,0,0) M(0,0,1) M(1,0,0) M(1,0,1)
#define TWO(M) M(0,0) M(1,0)
#define JOBS(M) M(0)
#else
#define TWO(M) M(0,0) M(0,1) M(1,0) M(1,1)
#define JOBS(M) M(0) M(1)
#define BJW(M) M(0,0,0) M(0,0,1) M(0,1,0) M(0,1,1) M(1,0,0) M(1,0,1) M(1,1,0) M(1,1,1)
#endif
#define ONE(M) M(0) M(1)
#define BW2(M) M(0,0) M(0,1) M(1,0) M(1,1)

byte r_dummy;
active proctype world()
{
  d_step { b_ld[0] = 1; b_tok[0] = 1; v[BW(0,0)] = 1; v[BW(0,1)] = 1;
           s_on[1] = 0; if :: NJ == 2 -> s_acc[1] = 1; r_st[1] = sQ; r_lz[1] = LZ(1,0,0); m_st[1] = sQ; m_lz[1] = LZ(1,0,0) :: else fi }
  do
  TWO(SUBMIT) TWO(SUBMITX) RETRY(0) ASK(0) TWO(CANCEL) EXPIRE(0,0) EXPIRE(1,0)
  TWO(APPLY) TWO(NOREPLY) TWO(GHOST) GHOSTRUN TWO(REPLY) TWO(LOAD)
  BJW(GRANT) BJW(DONE) BJW(EVICT) BJW(LOSTJOB) BW2(HELLO) ONE(TAKEOVER) ONE(STEPDOWN)
  TWO(GETJOB) TWO(DRAW) TWO(BREAK) TWO(SENDDONE) TWO(ANSWER)
  ONE(SAYHELLO) ONE(NOHELLO) ONE(PAUSE) ONE(WAKE) ONE(DIE) ONE(RESTART)
  TWO(LOSEJOB) TWO(LOSEDONE) TWO(LOSEANS) ONE(LOSEHELLO) TWO(DUPJOB) TWO(DUPDONE) TWO(SINK)
  :: d_step { !stop -> stop = 1; fb = 0; dl = 0; cn = 0 }
  :: else ->
     /* faults have stopped and nothing can move: P1 and the second half of P8 */
     assert(!s_acc[0] || TERM(r_st[0])); assert(!s_acc[1] || TERM(r_st[1]));
     assert(c_st[0] != 1 && c_st[1] != 1);
     assert(w_up[0] == 2 || (k_st[0] == 0 && k_st[1] == 0));
     assert(w_up[1] == 2 || (k_st[2] == 0 && k_st[3] == 0));
     break
  od
}

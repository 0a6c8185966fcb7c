#pragma once
/*
 * mutant — rules broken on purpose, one at a time, so that tests/storm can prove that it would see
 * it.
 *
 * MUTANT(X) stands in the code where rule X could be broken. In programs and their archives it is
 * `false` and leaves nothing in the object code; only tests/storm compiles copies with
 * DRAWBAR_MUTANTS, where `storm_mutants --mutant X` breaks the rule. What each breaks is said by
 * tests/storm/mutants.sh.
 */
#ifdef DRAWBAR_MUTANTS
enum mutant {
    MUTANT_NONE,
    MUTANT_NOFENCE,
    MUTANT_NODEDUP,
    MUTANT_NOFREEZE,
    MUTANT_NOLOOKUP,
    MUTANT_EARLY202,
    MUTANT_EARLYACK,
    MUTANT_EARLYCANCEL,
    MUTANT_EARLYJOB,
    MUTANT_BYJOB,
    MUTANT_NOATT,
    MUTANT_NOLIMIT,
    MUTANT_SAMEFILE,
    MUTANT_NOINC,
    MUTANT_EPOCHCMP,
    MUTANT_NOREAD,
    MUTANT_DUPSTALE,
    MUTANT_UNLOADEDSTALE,
    MUTANT_STALEUNFENCED,
    MUTANT_NOINVENTORY,
    MUTANT_NORESEND,
    MUTANT_NOGAP,
    MUTANT_PLAINRENEW,
    MUTANT_KEYANEW,
    MUTANT_LOADKEY,
    MUTANT_OVERFULL,
    MUTANT_NOSHARE,
    MUTANT_NOTURNS,
    MUTANT_NOCOST,
    MUTANT_DRAINPULL,
    MUTANT_DRAINONCE,
    MUTANT_NORESIGN,
    MUTANT_RESTORELESS,
    MUTANT_RESTOREMIX,
    MUTANT_NOWAIT,
    MUTANT_WAITOLD,
    MUTANT_FENCEDLEADS,
    MUTANT_STEADYRUN,
    MUTANT_HASTY,
    MUTANT_RASHREAD,
    MUTANT_COUNT,
};
extern enum mutant mutant_chosen;
#define MUTANT(name) (mutant_chosen == MUTANT_##name)
#else
#define MUTANT(name) false
#endif

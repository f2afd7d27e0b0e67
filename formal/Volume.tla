------------------------------- MODULE Volume -------------------------------
(* The commit protocol of a coherent volume, for one artifact. The state is   *)
(* one record; every action is a function from it to the next. state.py says  *)
(* what the fields mean, and protocol.py and world.py are the same actions in *)
(* Python: both must count the same states.                                   *)
EXTENDS Integers, Sequences, FiniteSets

CONSTANTS SESSIONS, VALUES, COMMITS, FOREIGNS, CRASHES, POWERLOSSES, LEASES, MUTANT

VARIABLE s

FOREIGN == 100
NONE == -1
TORN == -9
HALF == -5
NoFile == <<NONE, NONE>>
NoInstall == <<NONE, NONE>>
Unseen == <<NONE, NONE, NONE, NONE>>
Sessions == 1..SESSIONS
Values == 0..(VALUES - 1)

Content(file) == file[1]
Stamp(file) == file[2]
Generation(x) == Len(x.history) - 1
Current(x) == x.history[Len(x.history)]
Entry(content, author, seen, stamp) ==
    [content |-> content, author |-> author, seen |-> seen, stamp |-> stamp]

Init == s = [
    history |-> <<Entry(0, 0, NONE, 0)>>,
    epoch |-> 0,
    install |-> NoInstall,
    stage |-> NoFile,
    visible |-> <<0, 0>>,
    past |-> {},
    recorded |-> {},
    rebooted |-> FALSE,
    gate |-> 0,
    at |-> [i \in Sessions |-> "idle"],
    draft |-> [i \in Sessions |-> NONE],
    view |-> [i \in Sessions |-> Unseen],
    checked |-> NONE,
    lease |-> 0,
    owner |-> [i \in Sessions |-> "no"],
    writer |-> NONE,
    aside |-> NoFile,
    taken |-> {},
    stale |-> FALSE,
    acknowledged |-> 0,
    kept |-> {},
    excused |-> {},
    commits |-> 0,
    foreign |-> 0,
    crashes |-> 0,
    powerLosses |-> 0,
    leases |-> 0]

(* ── words ──────────────────────────────────────────────────────────────── *)

SeenNow(x) == <<Generation(x), Current(x).content, x.epoch, Stamp(x.visible)>>

Readable(x) == /\ x.install = NoInstall \/ ~x.rebooted
               /\ Content(x.visible) = Current(x).content

HistoryStamps(x) == {x.history[n].stamp : n \in 1..Len(x.history)}

Excusing(x, stamp) ==
    IF stamp >= FOREIGN /\ stamp \notin (HistoryStamps(x) \cup x.kept)
    THEN x.excused \cup {stamp} ELSE x.excused

Entered(x, i, purpose) == [x EXCEPT !.gate = i, !.at[i] = purpose]

Left(x, i, at) ==
    [x EXCEPT !.gate = 0, !.at[i] = at, !.checked = NONE,
              !.draft[i] = IF at = "staged" THEN @ ELSE NONE]

Exchanged(x) ==
    LET both == {Stamp(x.visible), Stamp(x.stage)}
    IN [x EXCEPT !.visible = x.stage, !.stage = x.visible,
                 !.past = @ \cup {<<x.visible, x.stage>>},
                 !.view = [i \in Sessions |->
                     IF x.view[i][4] \in both
                     THEN <<x.view[i][1], x.view[i][2], x.view[i][3], NONE>>
                     ELSE x.view[i]]]

Adopted(x, file) ==
    [x EXCEPT !.history = Append(@, Entry(Content(file), 0, Current(x).content, Stamp(file)))]

Displaced(x) ==
    LET open == x.writer # NONE /\ x.writer = Stamp(x.stage)
    IN IF open /\ MUTANT # "NoSoleOpener"
       THEN [x EXCEPT !.stage = NoFile, !.aside = x.stage]
       ELSE [x EXCEPT !.stage = NoFile]

DisplacesOpenFile(x) ==
    /\ x.writer = Stamp(x.stage) /\ Stamp(x.stage) # NONE
    /\ Stamp(x.stage) # x.install[1] /\ Stamp(x.stage) # x.install[2]

(* ── a session outside the gate ─────────────────────────────────────────── *)

FastRead(i) ==
    /\ s.at[i] = "idle"
    /\ Readable(s) \/ MUTANT = "ReadMid"
    /\ LET now == SeenNow(s)
           seen == IF MUTANT = "ReadMid"
                   THEN <<now[1], Content(s.visible), now[3], now[4]>> ELSE now
       IN /\ s.view[i] # seen \/ i \in s.taken
          /\ s' = [s EXCEPT !.view[i] = seen, !.taken = @ \ {i}]

Stage(i) ==
    /\ s.at[i] = "idle" /\ s.view[i] # Unseen /\ s.commits < COMMITS
    /\ \E value \in Values :
        s' = [s EXCEPT !.at[i] = "staged", !.draft[i] = value, !.commits = @ + 1]

GateFree == s.gate = 0 \/ MUTANT = "NoGate"

EnterToRead(i) ==
    /\ GateFree /\ s.at[i] = "idle"
    \* An install that stays unfinished is taken to the gate, whatever is visible.
    /\ ~Readable(s) \/ s.install # NoInstall
    /\ s' = Entered(s, i, "reading")

EnterToLease(i) ==
    /\ GateFree /\ s.at[i] = "idle" /\ s.leases < LEASES /\ s.owner[i] # "live"
    /\ s' = [Entered(s, i, "leasing") EXCEPT !.leases = @ + 1]

EnterToCommit(i) ==
    /\ GateFree /\ s.at[i] = "staged"
    /\ s' = Entered(s, i, "committing")

Expire(i) == s.owner[i] = "live" /\ s' = [s EXCEPT !.owner[i] = "over"]

Release(i) ==
    /\ s.owner[i] = "live" /\ s.at[i] = "idle" /\ s.gate = 0
    /\ s' = [s EXCEPT !.owner[i] = "no", !.lease = 0]

(* ── under the gate: recovery, then what the session came for ───────────── *)

AfterBoot(x) ==
    LET known == x.recorded \cup ({x.install[1], x.install[2]} \ {NONE})
        lost == Stamp(x.stage) >= FOREIGN /\ Stamp(x.stage) \notin known
        plain == [x EXCEPT !.install = NoInstall, !.stage = NoFile, !.recorded = {},
                           !.past = {}, !.rebooted = FALSE,
                           !.kept = IF lost THEN @ \cup {Stamp(x.stage)} ELSE @]
    IN IF \/ known = {}
          \/ Content(x.visible) = Current(x).content
          \/ Stamp(x.visible) \notin known
       THEN plain
       ELSE [plain EXCEPT !.visible = <<Current(x).content, Generation(x)>>,
                          !.past = x.past \cup {<<x.visible, NoFile>>},
                          !.recorded = known]

FinishInstall(x) ==
    LET previous == x.install[1]
        staged == x.install[2]
    IN IF Stamp(x.stage) = staged
       THEN IF Stamp(x.visible) = previous
            THEN Exchanged(x)
            ELSE [x EXCEPT !.install = NoInstall, !.stage = NoFile]
       ELSE IF Stamp(x.stage) = previous
       THEN [Displaced(x) EXCEPT !.install = NoInstall]
       ELSE IF DisplacesOpenFile(x)
       THEN Exchanged(x)
       ELSE [Adopted(x, x.stage) EXCEPT !.install = <<staged, Stamp(x.stage)>>,
                                        !.recorded = @ \cup {staged, Stamp(x.stage)}]

Leased(x, i) ==
    LET holder == x.lease
        live == IF holder = 0 THEN FALSE ELSE x.owner[holder] = "live"
        dispossesses == holder \notin {0, i}
        epoch == IF dispossesses /\ MUTANT # "NoBump" THEN x.epoch + 1 ELSE x.epoch
        seen == x.view[i]
        current == seen[1] # NONE /\ seen[3] = x.epoch /\ seen[2] = Current(x).content
        renewed == <<Generation(x), seen[2], epoch, seen[4]>>
        robbed == IF ~dispossesses THEN {}
                  ELSE IF x.view[holder] = Unseen THEN {} ELSE {holder}
    IN IF live /\ MUTANT # "TwoLeases"
       THEN Left(x, i, "idle")
       ELSE [Left(x, i, "idle") EXCEPT
                !.lease = i, !.owner[i] = "live", !.epoch = epoch,
                !.taken = @ \cup robbed,
                !.view[i] = IF current THEN renewed ELSE seen]

OpenOutside == s.writer = Stamp(s.visible) /\ MUTANT # "NoReadLease"

Busy(i) == s' = Left(s, i, IF s.at[i] = "committing" THEN "staged" ELSE "idle")

Judge(i) ==
    LET seen == s.view[i]
        excluded == IF s.lease \in {0, i} THEN FALSE ELSE s.owner[s.lease] = "live"
    IN IF OpenOutside
       THEN s' = Left(s, i, "staged")
       ELSE IF \/ excluded /\ MUTANT # "IgnoreLease"
               \/ seen[3] < s.epoch /\ MUTANT # "NoFence"
               \/ seen[2] # Current(s).content /\ MUTANT # "NoCAS"
       THEN s' = Left(s, i, "idle")
       ELSE LET ours == 0 < Stamp(s.visible) /\ Stamp(s.visible) < FOREIGN
            IN s' = [s EXCEPT !.at[i] = "checked", !.checked = Stamp(s.visible),
                              !.excused = Excusing(s, Stamp(s.visible)),
                              !.past = IF ours \/ MUTANT = "NoFlush" THEN @ ELSE {}]

Settled(i) ==
    CASE s.at[i] = "reading" ->
            s' = [Left(s, i, "idle") EXCEPT !.view[i] = SeenNow(s), !.taken = @ \ {i}]
      [] s.at[i] = "leasing" -> s' = Leased(s, i)
      [] s.at[i] = "putting back" -> s' = Left(s, i, "idle")
      [] s.at[i] = "committing" -> Judge(i)

GateStep(i) ==
    /\ s.at[i] \in {"reading", "leasing", "committing", "putting back"}
    /\ IF s.rebooted /\ MUTANT # "NoBoot"
       THEN IF OpenOutside THEN Busy(i) ELSE s' = AfterBoot(s)
       ELSE IF s.install # NoInstall
       THEN IF MUTANT = "NoHealing"
            THEN s' = [s EXCEPT !.install = NoInstall, !.stage = NoFile]
            ELSE IF (OpenOutside \/ DisplacesOpenFile(s)) /\ s.at[i] # "putting back"
            THEN Busy(i)
            ELSE s' = FinishInstall(s)
       ELSE IF Content(s.visible) # Current(s).content
       THEN IF OpenOutside THEN Busy(i) ELSE s' = Adopted(s, s.visible)
       ELSE Settled(i)

(* ── a commit: publish, install, verify ─────────────────────────────────── *)

Publish(i) ==
    /\ s.at[i] = "checked"
    /\ LET generation == Generation(s) + 1
       IN s' = [s EXCEPT
            !.history = Append(@, Entry(s.draft[i], i, s.view[i][2], generation)),
            !.install = <<s.checked, generation>>,
            !.stage = <<s.draft[i], generation>>,
            !.recorded = @ \cup {s.checked, generation},
            !.at[i] = "published",
            !.stale = @ \/ i \in s.taken]

Exchange(i) ==
    /\ s.at[i] = "published"
    /\ s' = [Exchanged(s) EXCEPT !.at[i] = "exchanged"]

Verify(i) ==
    /\ s.at[i] = "exchanged"
    /\ LET generation == Generation(s)
           told == [s EXCEPT !.acknowledged = IF generation > @ THEN generation ELSE @]
       IN IF Stamp(s.stage) = s.install[1] \/ MUTANT = "NoVerify"
          THEN s' = [Left(Displaced(told), i, "idle") EXCEPT
                        !.install = NoInstall,
                        !.view[i] = <<generation, s.draft[i], s.epoch, NONE>>]
          ELSE s' = [told EXCEPT !.at[i] = "putting back", !.checked = NONE]

(* ── the world ──────────────────────────────────────────────────────────── *)

Dead(x, i) ==
    LET held == x.gate = i /\ MUTANT # "StickyGate"
    IN [x EXCEPT !.gate = IF held THEN 0 ELSE @, !.checked = IF held THEN NONE ELSE @,
                 !.at[i] = "idle", !.draft[i] = NONE, !.view[i] = Unseen,
                 !.owner[i] = "no", !.taken = @ \ {i}]

Crash(i) ==
    /\ s.crashes < CRASHES
    /\ s.at[i] # "idle" \/ s.view[i] # Unseen
    /\ s' = [Dead(s, i) EXCEPT !.crashes = @ + 1]

NextStamp == FOREIGN + s.foreign + 1

Written(x, file) ==
    LET after == [x EXCEPT !.writer = Stamp(file), !.foreign = @ + 1,
                           !.excused = Excusing(x, x.writer)]
    IN IF Stamp(x.visible) = x.writer THEN [after EXCEPT !.visible = file]
       ELSE IF Stamp(x.stage) = x.writer THEN [after EXCEPT !.stage = file]
       ELSE IF Stamp(x.aside) = x.writer THEN [after EXCEPT !.aside = file]
       ELSE after

OutsideRename ==
    /\ s.foreign < FOREIGNS
    /\ \E value \in Values :
        s' = [s EXCEPT !.visible = <<value, NextStamp>>,
                       !.past = @ \cup {<<s.visible, s.stage>>},
                       !.foreign = @ + 1,
                       !.excused = Excusing(s, Stamp(s.visible)),
                       !.writer = IF @ = Stamp(s.visible) THEN NONE ELSE @]

OutsideOpen ==
    /\ s.foreign < FOREIGNS /\ s.writer = NONE
    /\ ~(s.checked = Stamp(s.visible) /\ MUTANT # "NoReadLease")
    /\ s' = [s EXCEPT !.writer = Stamp(s.visible)]

OutsideBegin ==
    /\ s.writer # NONE /\ s.foreign + 1 < FOREIGNS
    /\ s' = Written(s, <<HALF, NextStamp>>)

OutsideWrite ==
    /\ s.writer # NONE
    /\ \E value \in Values :
        s' = [Written(s, <<value, NextStamp>>) EXCEPT !.writer = NONE]

Dispose ==
    /\ s.aside # NoFile /\ s.writer # Stamp(s.aside)
    /\ s' = [s EXCEPT !.aside = NoFile,
                      !.kept = IF Stamp(s.aside) >= FOREIGN THEN @ \cup {Stamp(s.aside)} ELSE @]

Flush ==
    /\ s.gate = 0 /\ s.install = NoInstall /\ ~s.rebooted
    /\ s.past # {} \/ s.recorded # {}
    /\ s' = [s EXCEPT !.past = {}, !.recorded = {}]

Survivor(file) == IF Content(file) = HALF THEN <<0, Stamp(file)>> ELSE file

RECURSIVE AllDead(_, _)
AllDead(x, i) == IF i = 0 THEN x ELSE AllDead(Dead(x, i), i - 1)

PowerLoss ==
    /\ s.powerLosses < POWERLOSSES
    /\ \E pair \in s.past \cup {<<s.visible, s.stage>>} :
       \E cut \in {0} \cup (IF MUTANT = "NormalSync" /\ Generation(s) > 0 THEN {1} ELSE {}) :
       LET visible == pair[1]
           stage == pair[2]
           unflushed == Stamp(visible) \in s.recorded /\ Stamp(visible) < FOREIGN
       IN \E shown \in {visible} \cup
                (IF unflushed THEN {<<TORN, Stamp(visible)>>} ELSE {}) :
          LET after == AllDead(s, SESSIONS)
              lost == {stamp \in {Stamp(s.visible), Stamp(s.stage)} :
                          stamp >= FOREIGN /\ stamp \notin {Stamp(shown), Stamp(stage)}}
          IN s' = [after EXCEPT
                !.history = SubSeq(s.history, 1, Len(s.history) - cut),
                !.visible = Survivor(shown), !.stage = Survivor(stage),
                !.aside = Survivor(s.aside), !.past = {}, !.rebooted = TRUE,
                !.writer = NONE, !.excused = @ \cup lost, !.powerLosses = @ + 1]

-----------------------------------------------------------------------------
Work(i) == EnterToRead(i) \/ EnterToCommit(i) \/ GateStep(i)
           \/ Publish(i) \/ Exchange(i) \/ Verify(i)

Next ==
    \/ \E i \in Sessions :
        \/ FastRead(i) \/ Stage(i) \/ EnterToLease(i) \/ Expire(i) \/ Release(i)
        \/ Work(i) \/ Crash(i)
    \/ OutsideRename \/ OutsideOpen \/ OutsideBegin \/ OutsideWrite
    \/ Dispose \/ Flush \/ PowerLoss

Spec == Init /\ [][Next]_s
(* Somebody comes by now and then, works on, and outside editors finish.      *)
Fair == Spec /\ WF_s(\E i \in Sessions : Work(i)) /\ WF_s(OutsideWrite)

(* ── what must hold ─────────────────────────────────────────────────────── *)

SingleWriter ==
    Cardinality({i \in Sessions :
        s.owner[i] = "live" \/ s.at[i] \in {"published", "exchanged"}}) <= 1

MonotonicVersion ==
    /\ s.acknowledged <= Generation(s)
    /\ \A i \in Sessions : s.view[i][1] <= Generation(s)

BoundedStaleness ==
    \A i \in Sessions :
        (s.view[i][4] # NONE
         /\ (s.view[i][4] = Stamp(s.visible) \/ MUTANT = "NoFingerprint"))
        => s.acknowledged <= s.view[i][1]

NoLostUpdate ==
    \A n \in 2..Len(s.history) :
        s.history[n].author = 0 \/ s.history[n].seen = s.history[n - 1].content

NoStaleApply == ~s.stale

NoMix ==
    LET takenBack == s.powerLosses > 0
        atRest == s.gate = 0 /\ s.install = NoInstall /\ ~s.rebooted
    IN /\ \/ ~atRest
          \/ Content(s.visible) = Current(s).content
          \/ Stamp(s.visible) >= FOREIGN
          \/ takenBack /\ Current(s).stamp >= FOREIGN
       /\ \A n \in 2..Len(s.history) :
            \/ s.history[n].author # 0
            \/ s.history[n].stamp >= FOREIGN
            \/ takenBack /\ s.history[n - 1].stamp >= FOREIGN

NoTornRead ==
    /\ \A n \in 1..Len(s.history) : s.history[n].content >= 0
    /\ \A i \in Sessions :
        \/ s.view[i] = Unseen
        \/ s.view[i][1] > Generation(s)
        \/ s.history[s.view[i][1] + 1].content = s.view[i][2]

NoForeignLost ==
    LET known == HistoryStamps(s) \cup s.kept \cup s.excused
                 \cup {Stamp(s.visible), Stamp(s.stage), Stamp(s.aside)}
    IN \A stamp \in (FOREIGN + 1)..(FOREIGN + s.foreign) : stamp \in known

(* Whatever was published is installed, or gives way to an outside edit.      *)
Recovery == (s.install # NoInstall) ~> (s.install = NoInstall)
=============================================================================

"""The deliberate breaks of the code, and the check that must notice each: a list only."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """One break: *was* becomes *broken* in a module; *check* must notice."""

    name: str
    promise: str
    module: str
    was: str
    broken: str
    check: str


MUTANTS = (
    Mutant(
        "no compare before the swap",
        "I1",
        "judgement",
        "if base.digest == head.digest:\n        return",
        "if base is not None:\n        return",
        "test_lost_update.py::test_commit_from_a_stale_base_changes_nothing",
    ),
    Mutant(
        "new bytes that equal the head's pass",
        "I1",
        "judgement",
        "if base.digest == head.digest:\n        return",
        "if head.digest in (base.digest, intent.staged and intent.staged.digest):\n        return",
        "test_lost_update.py::test_two_counters_that_both_write_six_are_a_conflict",
    ),
    Mutant(
        "blind writes pass",
        "I1",
        "judgement",
        "if base is None:\n        if head.exists:",
        "if base is None:\n        if not head:",
        "test_lost_update.py::test_write_to_an_artifact_never_read_is_refused",
    ),
    Mutant(
        "a commit skips a number",
        "I2",
        "commit",
        "    generation = head.generation + 1\n    staged",
        "    generation = head.generation + 2\n    staged",
        "test_generations.py",
    ),
    Mutant(
        "no gate around check and publish",
        "I3",
        "gating",
        "with parts.gate.held(GATE_WAIT_S):",
        "with contextlib.nullcontext():",
        "test_gate.py::test_threads_of_one_process_exclude_each_other test_history.py",
    ),
    Mutant(
        "a live lease of a peer is ignored",
        "I3",
        "ownership",
        "if row is None or not row.leased:\n        return",
        "if row is None or row.id:\n        return",
        "test_fence.py",
    ),
    Mutant(
        "no fence against an older epoch",
        "I4",
        "judgement",
        "if base.epoch < head.epoch:",
        "if base.epoch < 0:",
        "test_fence.py",
    ),
    Mutant(
        "ownership is taken without a new epoch",
        "I4",
        "leasing",
        '"reclaim", epoch + 1, found.session',
        '"reclaim", epoch, found.session',
        "test_fence.py",
    ),
    Mutant(
        "breaking a lease makes no new epoch",
        "I4",
        "lease_records",
        "_set_epoch(connection, row, row.epoch + 1)",
        "_set_epoch(connection, row, row.epoch)",
        "test_fence.py",
    ),
    Mutant(
        "files are read without their records",
        "I5",
        "reading",
        "if row.digest == seen.digest and (",
        "if row.digest and (",
        "test_foreign_edit.py::test_edit_by_an_outsider_is_one_generation_that_readers_see",
    ),
    Mutant(
        "memory is served without a look at the file",
        "I9",
        "cache",
        "found.st_ctime_ns == entry[4]\n            and found.st_ino == entry[1]",
        "found.st_ctime_ns\n            or found.st_ino == entry[1]",
        "test_generations.py::test_reader_served_from_memory_sees_a_peers_commit_at_once",
    ),
    Mutant(
        "refused content is thrown away",
        "I6",
        "commit",
        "if intent.staged is None or not intent.keep_refused:",
        "if intent.staged is None or intent.key:",
        "test_lost_update.py::test_refused_content_is_kept_and_named",
    ),
    Mutant(
        "nobody finishes the install of the dead",
        "I7",
        "recovery",
        "elif row is not None and pending is not None:",
        "elif row is not None and pending == row:",
        "test_crash_points.py::test_process_killed_at_any_point_leaves_old_or_new",
    ),
    Mutant(
        "the log is not flushed in power mode",
        "I7",
        "database",
        '"FULL" if durability == "power"',
        '"NORMAL" if durability == "power"',
        "test_power_cut.py::test_acknowledged_commit_survives_the_cut",
    ),
    Mutant(
        "the ground below a commit is not flushed",
        "I7",
        "ground",
        "if not parts.durable:\n        return\n    if not judged.exists:",
        "if parts:\n        return\n    if not judged.exists:",
        "test_power_cut.py::test_what_lies_below_a_commit_is_not_taken_back_by_a_cut",
    ),
    Mutant(
        "inode numbers of another boot are trusted",
        "I7",
        "recovery",
        "if row is not None and row.boot != parts.boot:",
        "if row is not None and not row.boot:",
        "test_recovery.py",
    ),
    Mutant(
        "an exchange is not verified",
        "I8",
        "install",
        "if displaced is None or displaced.st_ino != previous.inode:\n        return False",
        "if displaced is None or displaced.st_ino:\n        return True",
        "test_foreign_edit.py::test_edit_in_the_middle_of_a_commit_is_kept_and_so_is_the_commit",
    ),
    Mutant(
        "a broken lease does not count as a race",
        "I8",
        "install",
        "return leased is None or not leased.leased or lease_unbroken(leased.descriptor)",
        "return bool(previous)",
        "test_foreign_edit.py::test_editor_that_opened_the_file_in_the_middle_of_a_commit"
        "_gets_its_name_back",
    ),
    Mutant(
        "writers with the file open are not waited for",
        "I8",
        "files",
        "raise WriterPresent(found.st_dev, found.st_ino) from None\n",
        "return False\n",
        "test_foreign_edit.py::test_half_written_file_is_never_adopted",
    ),
    Mutant(
        "a hole of a moment counts as a removal",
        "I8",
        "recovery",
        "if not seen.exists and not absent_for_sure:",
        "if not seen.exists and not key:",
        "test_foreign_edit.py::test_hole_of_a_moment_is_not_taken_for_a_removal",
    ),
    Mutant(
        "late bytes in a displaced file are dropped",
        "I8",
        "disposal",
        "if displaced.verified != looks(found) and not _is_known(parts, record, descriptor):",
        "if displaced.verified == record:",
        "test_crash_points.py test_foreign_edit.py",
    ),
    Mutant(
        "an observation is remembered before its delivery",
        "I1",
        "views",
        "    if look.data is not None:\n        sink.write(look.data)\n",
        "    record(parts, key, reading)\n"
        "    if look.data is not None:\n        sink.write(look.data)\n",
        "test_recovery.py::test_content_that_could_not_be_delivered_was_not_seen",
    ),
    Mutant(
        "a dead holder keeps its lease",
        "I10",
        "ownership",
        "return not lease.hold or is_present(",
        "return not lease.hold or bool(lease) or is_present(",
        "test_fence.py",
    ),
    Mutant(
        "a forked child passes for its parent",
        "I10",
        "parts",
        "        self.session.become_child()\n        self.displaced",
        "        self.displaced",
        "test_fork.py",
    ),
    Mutant(
        "the gate is left between check and publish",
        "I3",
        "gating",
        '                    points.reached("checked")\n',
        '                    points.reached("checked")\n                    parts.gate.release()\n',
        "test_lost_update.py::test_eight_processes_that_add_their_own_lines_lose_none_and_double_none",
    ),
    Mutant(
        "what a transaction only read is not judged again",
        "I1",
        "commit",
        "for key, seen in validates:",
        "for key, seen in validates[:0]:",
        "test_write_skew.py::test_transactions_refuse_write_skew",
    ),
    Mutant(
        "a deletion is forgotten, and counting starts again",
        "I2",
        "commit",
        "    generation = head.generation + 1\n    staged",
        "    generation = head.generation + 1 if head.exists else 1\n    staged",
        "test_generations.py::test_generations_grow_by_one_over_delete_and_create",
    ),
    Mutant(
        "the file's own witness is not asked",
        "I2",
        "recovery",
        "if witness > known:",
        "if witness > known + (1 << 62):",
        "test_bad_input.py::test_rolled_back_sidecar_hands_out_no_number_twice",
    ),
    Mutant(
        "an unfinished install is read outside the gate",
        "I8",
        "reading",
        "(pending is None or _in_progress(parts, pending)):",
        "(row is not None):",
        "test_recovery.py::test_reader_finds_the_edit_that_a_dead_writer_displaced",
    ),
    Mutant(
        "members that are not yet visible are served from memory",
        "I5",
        "commit",
        "for _, head in changing if len(changing) > 1 else ():",
        "for _, head in ():",
        "test_transaction.py::test_a_peer_with_old_content_in_memory_sees_all_members_new",
    ),
    Mutant(
        "a commit is acknowledged before it is published",
        "I7",
        "sql_transaction",
        '                self._connection.execute("COMMIT")\n',
        "                pass\n",
        "test_generations.py::test_numbers_go_on_when_every_process_was_gone_in_between",
    ),
    Mutant(
        "an error after the commit point is told as a failure",
        "I7",
        "commit",
        "with contextlib.suppress(*(_UNTOLD if commits else ())):",
        "with contextlib.suppress():",
        "test_transaction.py::test_a_view_that_cannot_be_renewed_does_not_deny_the_commit_of_the_others",
    ),
    Mutant(
        "checksums of rows are not compared",
        "I7",
        "sidecar",
        "if artifact_checksum(key, generation, digest, size, epoch, boot) != checksum:",
        "if artifact_checksum(key, generation, digest, size, epoch, boot) == key:",
        "test_damage.py::test_no_column_of_a_row_changes_unnoticed",
    ),
    Mutant(
        "kept content is handed out without a look at it",
        "I5",
        "remake",
        'if digest not in (ABSENT_DIGEST, digest_of(content or b"")):',
        "if digest == content:",
        "test_damage.py::test_flipped_past_is_never_shown",
    ),
    Mutant(
        "recovery makes damaged content visible",
        "I7",
        "remake",
        "if digest_of_chunks(chunks_of(descriptor)) != digest:",
        "if digest_of_chunks(chunks_of(descriptor)) == parts:",
        "test_damage.py::test_flipped_head_is_not_made_visible_by_recovery",
    ),
    Mutant(
        "a refused write is put where it would have been",
        "I6",
        "keeping",
        "os.rename(stage, label, src_dir_fd=self.staging, dst_dir_fd=self.refused)\n"
        "        except FileNotFoundError:",
        'os.rename(stage, "../../plans/plan.md", src_dir_fd=self.staging,'
        " dst_dir_fd=self.refused)\n"
        "        except FileNotFoundError:",
        "test_lost_update.py::test_commit_from_a_stale_base_changes_nothing",
    ),
    Mutant(
        "a stalled gate holder is waited for without a bound",
        "I10",
        "locks",
        "self._granted.wait(timeout_s)",
        "self._granted.wait()",
        "test_gate.py::test_stopped_holder_gives_peers_a_busy_error_with_its_pid_in_bounded_time",
    ),
    Mutant(
        "who does not wait overtakes those who do",
        "I11",
        "leasing",
        "            _let_others_pass(parts, key)\n            return _grant(",
        "            return _grant(",
        "test_leases.py::test_who_does_not_wait_does_not_overtake_those_who_do",
    ),
    Mutant(
        "the gate is polled for and not queued for",
        "I11",
        "locks",
        "        self._wait(timeout_s)\n\n    def _is_lost",
        "        import random, time\n"
        "        end = time.monotonic() + timeout_s\n"
        "        while time.monotonic() < end:\n"
        "            time.sleep(random.random() / 50)\n"
        "            with contextlib.suppress(BlockingIOError):\n"
        "                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "                return\n"
        "        self._wait(0.1)\n\n    def _is_lost",
        "test_gate.py::test_waiters_are_served_in_the_order_in_which_they_came",
    ),
    Mutant(
        "a stale save through the mount is not judged",
        "I1",
        "fuse_mount/fence",
        "judge(self.parts, Intent(key, operation, content, claim.expectation, claim.base), head)",
        "del content",
        "test_mount_saves.py",
    ),
    Mutant(
        "a signal is forgotten when no copy is there",
        "I9",
        "trusting",
        "if copy.generation < self._heard.get(copy.entry.key, 0):",
        "if copy.generation < 0:",
        "test_read_policies.py::test_signal_that_comes_before_the_copy_is_kept_is_not_lost",
    ),
    Mutant(
        "a dead listener is trusted",
        "I9",
        "trusting",
        "listener is None or now >= listener.heard_until + trust.seconds",
        "listener is None",
        "test_read_policies.py::test_dead_listener_makes_every_read_look",
    ),
    Mutant(
        "a copy is trusted without end",
        "I9",
        "trusting",
        "now >= copy.until or copy.era != self._era",
        "copy.era != self._era",
        "test_read_policies.py::test_lease_of_a_copy_ends_with_its_time",
    ),
    Mutant(
        "own writes that renew no view go unseen",
        "I9",
        "commit",
        "            parts.copies.hear(new.key, new.generation)",
        "            _ = new",
        "test_read_policies.py::test_own_writes_are_seen_at_once_also_where_they_renew_no_view",
    ),
    Mutant(
        "what the feed brings moves the view",
        "I1",
        "trusting",
        "        self._store(key, reading, data, reading.seen, era, until, fetched=reading)",
        "        record(self._parts, key, reading)",
        "test_read_policies.py::test_what_the_feed_brings_is_seen_only_when_it_is_read",
    ),
)

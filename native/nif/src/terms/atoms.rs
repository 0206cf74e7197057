//! The atoms of this crate. All of them are fixed: none is ever made from input.

rustler::atoms! {
    // Answers.
    ok, error, nil, eof, again, wait, done, stdin, stdout, stderr, spawned,
    // Descriptors of a worker, and the requests to a shim.
    none, pipe, inherit, terminal, kill,
    // Messages.
    leash_fd, leash_hunt, ready, writable,
    // Reasons.
    busy, closed, corrupt, eacces, eexist, enosys, enotdir, eperm, errno, esrch, foreign_owner,
    invalid, loose_permissions, no_cgroup, no_cgroup2, no_controller, no_proc, no_working_directory, noproc, not_ours, not_pollable,
    occupied, pty, refused, reused, symlink, unknown,
    // Types of files.
    device, directory, other, r#type = "type",
    // Refusals.
    ancestor, kernel_thread, pid_1, vm,
    // The keys and values of a hunt's specification.
    adopted, app, attached, deadline, end, kind, ladder, mode, outliving, own_run_id, pid,
    pidfs_inode, process, report, run, run_dir, run_id, scope, start_ticks, sweep, unmarked, user,
    workers,
}

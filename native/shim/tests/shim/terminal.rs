//! A shim in the foreground of a terminal, as `timeout --foreground` and `sudo` do it.

use crate::harness::*;
use leash_tag::RunId;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command};

/// A shell that leads the session of a new terminal.
struct Terminal {
    shell: Child,
    /// The keyboard and the screen.
    file: File,
    run: RunId,
    decoy: Decoy,
}

impl Terminal {
    /// Starts a shell that runs a script.
    fn script(script: &str) -> Self {
        let run = new_run();
        let script = script.replace("SHIM", &shim(run));
        Self::open(Command::new("sh").args(["-c", &script]), run)
    }

    /// Starts a shell with job control, which waits for typed input.
    fn interactive() -> Self {
        let mut shell = Command::new("bash");
        shell.args(["--norc", "--noprofile", "-i"]).env("PS1", "$ ").env("TERM", "dumb");
        Self::open(&mut shell, new_run())
    }

    fn open(command: &mut Command, run: RunId) -> Self {
        let (mut ours, mut theirs) = (0, 0);
        // SAFETY: two places for descriptors; no name, modes or size are asked for.
        let result = unsafe {
            libc::openpty(
                &raw mut ours,
                &raw mut theirs,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        assert_eq!(result, 0);
        // SAFETY: just opened, and known to nothing else.
        let (file, theirs) = unsafe {
            libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
            (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
        };
        command
            .stdin(theirs.try_clone().unwrap())
            .stdout(theirs.try_clone().unwrap())
            .stderr(theirs);
        // SAFETY: single system calls.
        unsafe {
            use std::os::unix::process::CommandExt;
            command.pre_exec(|| {
                for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        Self { shell: command.spawn().unwrap(), file, run, decoy: Decoy::start() }
    }

    fn press(&mut self, keys: &str) {
        self.file.write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line, in which `SHIM` is the shim. The echo of the line must not match the text
    /// that a test waits for: `""` in a word tells them apart.
    fn enter(&mut self, line: &str) {
        let line = line.replace("SHIM", &shim(self.run));
        self.press(&format!("{line}\n"));
    }

    /// Reads the screen until this text is on it.
    #[track_caller]
    fn read_until(&mut self, end: &str) {
        let mut text = String::new();
        let mut byte = [0];
        until(&format!("{end:?} on the screen"), || {
            let mut readable =
                libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, which lives across the call.
            while unsafe { libc::poll(&raw mut readable, 1, 0) } > 0 {
                let read = self.file.read(&mut byte);
                assert!(matches!(read, Ok(1)), "the terminal ended after {text:?}");
                text.push(char::from(byte[0]));
                if text.contains(end) {
                    return true;
                }
            }
            false
        });
    }

    /// Returns the living processes of the tree, the shim among them.
    #[track_caller]
    fn tree(&self, count: usize) -> Vec<i32> {
        find(&format!("{count} processes"), || {
            Some(bearers(self.run)).filter(|pids| pids.len() == count)
        })
    }

    /// Waits until the worker runs this command.
    #[track_caller]
    fn runs(&self, command: &str) {
        until(command, || {
            bearers(self.run).iter().any(|&pid| cmdline(pid).join(" ").trim_end() == command)
        });
    }

    #[track_caller]
    fn all_in_state(&self, count: usize, expected: char) {
        until(&format!("all are {expected}"), || {
            let tree = bearers(self.run);
            tree.len() == count && tree.into_iter().all(|pid| state(pid) == Some(expected))
        });
    }

    /// Checks that the shell has the terminal and reads typed input.
    #[track_caller]
    fn shell_answers(&mut self) {
        self.enter("echo an\"\"swer");
        self.read_until("answer");
    }

    /// Waits until the shell has taken the status of its stopped job. A zombie has no
    /// environment, and the shell may not have its status yet. In that case, the shell would
    /// answer "There are stopped jobs" to its `exit` and stay.
    #[track_caller]
    fn no_job_is_stopped(&mut self) {
        self.enter("while [ -n \"$(jobs -s)\" ]; do sleep 0.02; done; echo no\"\"ne");
        self.read_until("none");
    }

    /// Checks that nothing of the tree is left and that the decoy is alive.
    #[track_caller]
    fn ended(mut self) {
        let status = find("the shell's end", || self.shell.try_wait().unwrap());
        assert!(status.success(), "{status}");
        until("nothing is left", || bearers(self.run).is_empty());
        self.decoy.assert_alive();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for pid in bearers(self.run) {
            kill(pid, libc::SIGKILL);
        }
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn shim(run: RunId) -> String {
    format!("{} --run-id={run}", binary().to_str().unwrap())
}

#[test]
fn the_worker_reads_the_terminal_and_the_script_after_it() {
    let mut terminal = Terminal::script(
        "SHIM --foreground -- sh -c 'echo ready; read line; echo got $line'; echo code $?; \
         read line; echo back $line",
    );
    terminal.read_until("ready");
    terminal.press("one\n");
    terminal.read_until("got one");
    terminal.read_until("code 0");
    terminal.press("two\n");
    // If the shell were not in the foreground any more, reading would have stopped it.
    terminal.read_until("back two");
    terminal.ended();
}

#[test]
fn an_interrupt_from_the_keyboard_goes_to_the_worker() {
    let mut terminal = Terminal::script(
        "trap : INT; SHIM --foreground -- \
         sh -c 'trap \"exit 33\" INT; echo ready; while :; do sleep 0.02; done'; echo code $?",
    );
    terminal.read_until("ready");
    terminal.press("\x03");
    terminal.read_until("code 33");
    terminal.ended();
}

#[test]
fn an_interrupt_that_the_worker_ignores_ends_nothing() {
    let mut terminal = Terminal::script(
        "trap : INT; SHIM --foreground -- \
         sh -c 'trap \"\" INT; echo ready; read line; echo got $line; exit 4'; echo code $?",
    );
    terminal.read_until("ready");
    terminal.press("\x03");
    terminal.press("one\n");
    terminal.read_until("got one");
    terminal.read_until("code 4");
    terminal.ended();
}

#[test]
fn an_interrupt_begins_the_ladder_of_a_worker_that_has_left_the_terminal() {
    let mut terminal =
        Terminal::script("trap : INT; SHIM --foreground -- setsid sleep 61; echo code $?");
    terminal.runs("sleep 61");
    terminal.press("\x03");
    terminal.read_until("code 143");
    terminal.ended();
}

#[test]
fn ctrl_z_stops_the_whole_job_and_fg_continues_it() {
    let mut terminal = Terminal::interactive();
    terminal.enter("SHIM --foreground -- sh -c 'echo re\"\"ady; read line; echo got $line'");
    terminal.read_until("ready");
    terminal.press("\x1a");
    terminal.read_until("Stopped");
    terminal.all_in_state(2, 'T');
    terminal.shell_answers();
    terminal.enter("fg");
    terminal.all_in_state(2, 'S');
    terminal.enter("one");
    terminal.read_until("got one");
    terminal.shell_answers();
    terminal.enter("exit");
    terminal.ended();
}

/// An editor reads Ctrl-Z as a byte, restores the screen, and then stops itself.
#[test]
fn a_worker_that_stops_itself_takes_the_job_along() {
    let mut terminal = Terminal::interactive();
    terminal.enter("SHIM --foreground -- sh -c 'kill -STOP $$; echo go\"\"es on'");
    terminal.read_until("Stopped");
    terminal.all_in_state(2, 'T');
    terminal.shell_answers();
    terminal.enter("fg");
    terminal.read_until("goes on");
    terminal.shell_answers();
    terminal.enter("exit");
    terminal.ended();
}

/// The process that keeps the inherited child is the shell's job. The shim is below it.
#[test]
fn a_job_with_an_inherited_child_is_stopped_and_continued_as_any_other() {
    let mut terminal = Terminal::interactive();
    let kept = std::env::temp_dir().join(format!("leash-inherited-{}", std::process::id()));
    terminal.enter(&format!(
        "(sleep 62.1 & echo $! >'{kept}'; exec SHIM --foreground -- \
         sh -c 'echo re\"\"ady; read line; echo got $line')",
        kept = kept.display()
    ));
    terminal.read_until("ready");
    terminal.press("\x1a");
    terminal.read_until("Stopped");
    terminal.all_in_state(2, 'T');
    terminal.shell_answers();
    terminal.enter("fg");
    terminal.all_in_state(2, 'S');
    terminal.enter("one");
    terminal.read_until("got one");
    terminal.shell_answers();
    terminal.enter(&format!("kill $(cat '{0}'); rm '{0}'; exit", kept.display()));
    terminal.ended();
}

#[test]
fn an_interrupt_is_told_once_to_a_shim_with_an_inherited_child() {
    let mut terminal = Terminal::script(
        "trap : INT; sh -c 'sleep 62.2 & exec SHIM --foreground -- \
         setsid sh -c \"trap : TERM; sleep 61.2; exit 9\"'; echo code $?",
    );
    terminal.runs("sleep 61.2");
    terminal.press("\x03");
    terminal.read_until("code 9");
    terminal.ended();
}

#[test]
fn a_stopped_job_ends_when_the_shell_kills_it() {
    let mut terminal = Terminal::interactive();
    terminal.enter("SHIM --foreground -- sleep 61");
    terminal.runs("sleep 61");
    terminal.press("\x1a");
    terminal.read_until("Stopped");
    terminal.enter("kill %1");
    terminal.tree(0);
    terminal.no_job_is_stopped();
    terminal.enter("exit");
    terminal.ended();
}

#[test]
fn a_job_in_the_background_leaves_the_terminal_to_the_shell() {
    let mut terminal = Terminal::interactive();
    terminal.enter("SHIM --foreground -- sleep 61 &");
    terminal.runs("sleep 61");
    // SAFETY: only numbers.
    let foreground = unsafe { libc::tcgetpgrp(terminal.file.as_raw_fd()) };
    assert_eq!(foreground, i32::try_from(terminal.shell.id()).unwrap(), "the shell's group");
    terminal.shell_answers();
    terminal.enter("kill %1; wait; echo co\"\"de $?");
    terminal.read_until("code");
    terminal.shell_answers();
    terminal.enter("exit");
    terminal.ended();
}

#[test]
fn a_job_in_the_background_that_reads_the_terminal_stops_and_can_be_brought_back() {
    let mut terminal = Terminal::interactive();
    terminal.enter("SHIM --foreground -- sh -c 'read line; echo got $line' &");
    terminal.all_in_state(2, 'T');
    terminal.shell_answers();
    terminal.enter("fg");
    terminal.all_in_state(2, 'S');
    terminal.enter("one");
    terminal.read_until("got one");
    terminal.enter("exit");
    terminal.ended();
}

#[test]
fn a_pager_at_the_end_of_a_pipeline_has_the_terminal() {
    let mut terminal = Terminal::interactive();
    let pager = "head -n1; echo re\"\"ady; read line < /dev/tty; echo got $line";
    terminal.enter(&format!("seq 100 | SHIM --foreground -- sh -c '{pager}'"));
    terminal.read_until("ready");
    terminal.enter("one");
    terminal.read_until("got one");
    terminal.shell_answers();
    terminal.enter("exit");
    terminal.ended();
}

#[test]
fn a_terminal_that_is_closed_ends_the_tree() {
    let mut terminal = Terminal::interactive();
    terminal
        .enter("SHIM --foreground -- sh -c 'trap \"\" HUP; echo re\"\"ady; sleep 61; sleep 61'");
    terminal.read_until("ready");
    terminal.file = File::open("/dev/null").unwrap();
    terminal.tree(0);
    terminal.decoy.assert_alive();
}

#[test]
fn a_terminal_that_is_closed_leaves_what_nohup_started() {
    let mut terminal = Terminal::interactive();
    terminal.enter("nohup SHIM -- sleep 61 > /dev/null 2>&1 &");
    terminal.tree(2);
    terminal.enter("kill -HUP $!; SHIM -- true; echo go\"\"ne");
    terminal.read_until("gone");
    terminal.file = File::open("/dev/null").unwrap();
    find("the shell's end", || terminal.shell.try_wait().unwrap());
    let tree = terminal.tree(2);
    kill(
        tree.into_iter().find(|&pid| cmdline(pid).join(" ") == "sleep 61 ").unwrap(),
        libc::SIGTERM,
    );
    terminal.tree(0);
}

/// The shim, the worker, and an unrelated process are in one process group.
#[test]
fn a_step_of_the_ladder_goes_to_those_of_the_group_that_are_of_the_tree() {
    let mut tree = Plan::by_hand()
        .option("--foreground")
        .option("--stop=TERM:20000")
        .sh("sleep 61 & trap '' TERM; (setsid sleep 62 &); wait; exit 5");
    tree.member("sleep 61");
    let daemon = tree.member("sleep 62");
    // SAFETY: only numbers.
    let groups = unsafe { (libc::getpgid(tree.pid), libc::getpgrp()) };
    assert_eq!(groups.0, groups.1, "the decoy's, too");
    tree.signal(libc::SIGTERM);
    assert_eq!(tree.ended().code, 5, "the worker's child was told, which the worker waited for");
    assert!(!lives(daemon));
}

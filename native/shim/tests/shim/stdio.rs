//! The worker's streams.

use crate::harness::*;
use std::fs;

#[test]
fn an_open_stdin_ends_with_the_leash() {
    let dir = Dir::new();
    let ended = dir.path("ended");
    let mut tree = Plan::vm_with_stdin("open")
        .option("--stop=WINCH:20000")
        .sh(&format!("cat; echo ended >{ended}"));
    let cat = tree.member("cat");
    until("it reads", || state(cat) == Some('S'));
    assert!(!std::path::Path::new(&ended).exists(), "stdin ended while the leash held");
    assert_eq!(tree.let_go().code, 0);
    assert_eq!(fs::read_to_string(&ended).unwrap(), "ended\n");
}

#[test]
fn files_are_appended_to() {
    let dir = Dir::new();
    fs::write(dir.path("out"), "before\n").unwrap();
    let mut tree = Plan::by_hand()
        .option(format!("--stdout=file:{}", dir.path("out")))
        .option("--stderr=stdout")
        .sh("echo out; echo err >&2");
    assert_eq!(tree.ended().code, 0);
    assert_eq!(dir.read("out"), "before\nout\nerr\n");

    let mut tree = Plan::by_hand()
        .option("--stdout=null")
        .option(format!("--stderr=file:{}", dir.path("new")))
        .option("--stdin=null")
        .sh("echo out; echo err >&2; cat");
    assert_eq!(tree.ended().code, 0);
    assert_eq!(dir.read("new"), "err\n");
}

//! The floors of the house, checked on the sources.
//!
//! `lib.rs` lists the floors from the ground up. A file imports only from its own floor and from
//! lower ones, and no file imports itself by way of others. Imports name the file that defines a
//! thing (`crate::os::pid::Pid`), so that this check sees where they lead.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions as tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const FLOORS: [&str; 7] = ["os", "procfs", "runs", "tags", "policy", "inspect", "cleanup"];

/// Module paths (`os::pid`) and the module paths that each of them imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|name| name == "rs"))
        .collect()
}

fn module(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap().with_extension("");
    let names: Vec<_> = path.iter().map(|name| name.to_str().unwrap()).collect();
    names.join("::").trim_end_matches("::mod").to_owned()
}

/// The code of a file without its comments and its tests.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths after each `crate::`, as far as they are names.
fn paths(code: &str) -> Vec<Vec<&str>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let starts = code.match_indices("crate::").map(|(at, found)| &code[at + found.len()..]);
    starts
        .map(|mut rest| {
            let mut path = Vec::new();
            loop {
                let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                path.push(&rest[..end]);
                match rest[end..].strip_prefix("::") {
                    Some(more) => rest = more,
                    None => return path,
                }
            }
        })
        .collect()
}

/// The longest beginning of a path that is a module, or `None` if its first name is no floor.
fn target(path: &[&str], modules: &BTreeSet<String>) -> Option<String> {
    (1..=path.len()).rev().map(|end| path[..end].join("::")).find(|it| modules.contains(it))
}

fn read() -> (Imports, Vec<String>) {
    let files = sources(&root());
    let modules = files.iter().map(|path| module(path)).filter(|it| it != "lib").collect();
    let (mut imports, mut wrong) = (Imports::new(), Vec::new());
    for file in files.iter().filter(|file| module(file) != "lib") {
        let (name, text) = (module(file), std::fs::read_to_string(file).unwrap());
        let mut found = BTreeSet::new();
        for path in paths(&code(&text)) {
            match target(&path, &modules) {
                Some(target) if target.contains("::") => drop(found.insert(target)),
                _ => wrong.push(format!("{name}: crate::{} names no file", path.join("::"))),
            }
        }
        found.remove(&name);
        imports.insert(name, found);
    }
    (imports, wrong)
}

fn floor(module: &str) -> usize {
    let name = module.split("::").next().unwrap();
    FLOORS.iter().position(|floor| *floor == name).unwrap_or_else(|| panic!("{module}: no floor"))
}

/// A way from a module back to itself.
fn circle(imports: &Imports, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
    let here = way.last().unwrap().clone();
    for next in &imports[&here] {
        if let Some(start) = way.iter().position(|it| it == next) {
            way.drain(..start);
            return true;
        }
        if !done.contains(next) {
            way.push(next.clone());
            if circle(imports, way, done) {
                return true;
            }
            way.pop();
        }
    }
    done.insert(here);
    false
}

#[test]
fn each_floor_imports_only_lower_floors() {
    let (imports, mut wrong) = read();
    assert!(imports.len() > FLOORS.len(), "no sources were found");
    for (module, targets) in &imports {
        let higher = targets.iter().filter(|target| floor(target) > floor(module));
        wrong.extend(higher.map(|target| format!("{module} imports {target}, a higher floor")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_imports_itself_by_way_of_others() {
    let (imports, _) = read();
    let mut done = BTreeSet::new();
    for module in imports.keys() {
        let mut way = vec![module.clone()];
        assert!(!circle(&imports, &mut way, &mut done), "a circle: {way:?}");
    }
}

#[test]
fn lib_rs_declares_the_floors() {
    let text = std::fs::read_to_string(root().join("lib.rs")).unwrap();
    let declared = text.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    assert_eq!(declared.collect::<BTreeSet<_>>(), BTreeSet::from(FLOORS));
}

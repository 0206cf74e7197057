//! The files of the crate import each other in one direction only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The folders and files below `src`. Each imports only itself and those before it.
const FLOORS: [&str; 8] = ["os", "cli", "out", "tree", "start", "stop", "mode", "run"];

type Imports = BTreeMap<String, BTreeSet<String>>;

fn sources(directory: &Path, module: &str, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let name = match (module, stem) {
            (_, "mod") => module.to_string(),
            ("", stem) => stem.to_string(),
            (module, stem) => format!("{module}::{stem}"),
        };
        if path.is_dir() {
            sources(&path, &name, found);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            found.insert(name, lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Writes out the paths of `a::{b, c::{d, e}}`.
fn expand(prefix: &str, path: &str, found: &mut Vec<String>) {
    let Some((head, group)) = path.split_once('{') else {
        let path = path.split(" as ").next().unwrap_or_default();
        found.push(format!("{prefix}{}", path.trim()));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let (mut depth, mut item) = (1, String::new());
    for letter in group.chars() {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        if depth == 0 || (depth == 1 && letter == ',') {
            expand(&prefix, &item, found);
            item.clear();
        } else {
            item.push(letter);
        }
        if depth == 0 {
            return;
        }
    }
}

fn imports(all: &BTreeMap<String, String>) -> Imports {
    let mut imports = Imports::new();
    for (name, code) in all {
        let parent = name.rsplit_once("::").map_or("", |(parent, _)| parent);
        let mut paths = Vec::new();
        for (keyword, base) in [("crate::", String::new()), ("super::", format!("{parent}::"))] {
            for (at, _) in code.match_indices(keyword) {
                let rest = &code[at + keyword.len()..];
                let end = rest.find([';', '(', ')', '<', '>']).unwrap_or(rest.len());
                expand(&base, &rest[..end], &mut paths);
            }
        }
        let of = imports.entry(name.clone()).or_default();
        for path in paths {
            let parts: Vec<&str> = path.split("::").collect();
            let file = (1..=parts.len()).rev().map(|len| parts[..len].join("::"));
            of.extend(file.filter(|file| all.contains_key(file) && file != name).take(1));
        }
    }
    imports
}

/// A circle that goes through the last file of this way, if there is one.
fn circle(imports: &Imports, way: &mut Vec<String>) -> Option<Vec<String>> {
    let last = way.last()?.clone();
    for next in imports.get(&last)? {
        if let Some(at) = way.iter().position(|file| file == next) {
            return Some(way[at..].to_vec());
        }
        way.push(next.clone());
        if let Some(found) = circle(imports, way) {
            return Some(found);
        }
        way.pop();
    }
    None
}

fn of_crate() -> Imports {
    let mut all = BTreeMap::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut all);
    // The entry points stand above everything.
    all.retain(|name, _| !["lib", "main", "fuzzing"].contains(&name.as_str()));
    all.retain(|name, _| !name.starts_with("freestanding"));
    imports(&all)
}

#[test]
fn no_file_imports_itself_by_way_of_others() {
    let imports = of_crate();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 100, "{imports:?}");
    for file in imports.keys() {
        assert_eq!(circle(&imports, &mut vec![file.clone()]), None);
    }
}

#[test]
fn a_folder_imports_only_those_before_it() {
    let floor = |file: &str| {
        let folder = file.split("::").next().unwrap();
        FLOORS.iter().position(|floor| *floor == folder).unwrap_or_else(|| panic!("{file}"))
    };
    for (file, of) in of_crate() {
        for import in of {
            assert!(floor(&import) <= floor(&file), "{file} imports {import}");
        }
    }
}

#[test]
fn a_circle_is_found() {
    let all = [
        ("os::a", "use super::b::{self as other, X};"),
        ("os::b", "use crate::{os::c::Y, run};"),
        ("os::c", "let x = crate::os::a::f();"),
        ("run", ""),
    ];
    let all = all.map(|(name, code)| (name.to_string(), code.to_string())).into();
    let found = circle(&imports(&all), &mut vec!["os::a".to_string()]);
    assert_eq!(found, Some(["os::a", "os::b", "os::c"].map(String::from).to_vec()));
}

//! No file of the command or of the NIF library imports another one in a circle. So a reader can
//! begin anywhere and reaches an end.
#![allow(clippy::unwrap_used, reason = "clippy knows only #[test] functions as tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The text of each module without its tests, by path: `render::table`, and `` for the root.
type Modules = BTreeMap<String, String>;

/// Reads the modules below a directory.
fn read(dir: &Path, parent: &str, modules: &mut Modules) {
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_stem().unwrap().to_str().unwrap();
        let path = join(parent, name);
        if entry.is_dir() {
            read(&entry, &path, modules);
        } else {
            let is_parent = matches!(name, "main" | "lib" | "mod");
            let path = if is_parent { parent.to_owned() } else { path };
            modules.insert(path, std::fs::read_to_string(&entry).unwrap());
        }
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}::{name}") }
}

/// Returns the modules that a module imports from, in `use` or in a path.
fn imports(module: &str, modules: &Modules) -> BTreeSet<String> {
    let code = modules[module].split("#[cfg(test)]\nmod tests").next().unwrap();
    let code = code.split("#[cfg(test)]\npub(crate) mod tests").next().unwrap();
    let lines = code.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let children = modules.keys().filter(|other| {
        other
            .strip_prefix(&join(module, ""))
            .is_some_and(|name| !name.is_empty() && !name.contains("::"))
    });
    let children = children.map(|child| (child.rsplit("::").next().unwrap(), child.as_str()));
    let starts = children.chain([("crate", ""), ("self", module), ("super", parent)]);
    let mut found = Vec::new();
    for (word, base) in starts {
        for (at, _) in code.match_indices(&format!("{word}::")) {
            // `super::args::` is no path that begins with `args`.
            let is_start = |before: char| !before.is_alphanumeric() && !"_:".contains(before);
            if code[..at].chars().next_back().is_none_or(is_start) {
                expand(base, &code[at + word.len() + 2..], &mut found);
            }
        }
    }
    // The longest part of a path that is a module; the rest names something in there.
    let module_of = |path: &String| {
        let ends = path.match_indices("::").map(|(end, _)| &path[..end]);
        let longest =
            ends.chain([path.as_str()]).filter(|path| modules.contains_key(*path)).last();
        longest.unwrap_or("").to_owned()
    };
    found.iter().map(module_of).filter(|other| other != module).collect()
}

/// Adds the paths of `a::{b, c::{d, e}}` to `found`. Returns what follows in the text.
fn expand<'a>(base: &str, text: &'a str, found: &mut Vec<String>) -> &'a str {
    let mut rest = text.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        rest = group;
        while !rest.starts_with('}') {
            rest = expand(base, rest, found).trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        return &rest[1..];
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let path = match &rest[..end] {
        "self" => base.to_owned(),
        "super" => base.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned(),
        name => join(base, name),
    };
    // A turbofish ends the path.
    match rest[end..].strip_prefix("::").filter(|next| !next.starts_with(['<', '*'])) {
        Some(next) => expand(&path, next, found),
        None => {
            found.push(path);
            // Any other sign inside of braces, such as `as name`, is passed over.
            let next = rest[end..].find([',', '}', ';', '(']).unwrap_or(rest.len() - end);
            &rest[end + next..]
        }
    }
}

/// Returns modules that import each other, in the order of the imports; empty without a circle.
fn circle(modules: &Modules) -> Vec<String> {
    let mut open: BTreeMap<_, _> =
        modules.keys().map(|module| (module.clone(), imports(module, modules))).collect();
    // A module that imports none of those that are left is in no circle.
    while let Some(done) = open.iter().find(|(_, to)| !to.iter().any(|to| open.contains_key(to)))
    {
        let done = done.0.clone();
        open.remove(&done);
    }
    let mut way: Vec<String> = open.keys().next().cloned().into_iter().collect();
    while let Some(last) = way.last() {
        let next = open[last].iter().find(|to| open.contains_key(*to)).unwrap().clone();
        if let Some(begin) = way.iter().position(|module| *module == next) {
            return way.split_off(begin);
        }
        way.push(next);
    }
    way
}

#[test]
fn no_file_imports_itself_through_others() {
    for source in ["src", "../nif/src"] {
        let mut modules = Modules::new();
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(source), "", &mut modules);
        assert!(modules.len() > 20, "{source}: only {} files", modules.len());
        assert_eq!(circle(&modules), Vec::<String>::new(), "{source}");
    }
}

#[test]
fn a_circle_is_found_in_each_form_of_an_import() {
    let with = |b: &str| {
        let files = [("", "use a::b;"), ("a", "mod b;"), ("a::b", b), ("c", "crate::a::b::f();")];
        circle(&files.map(|(path, text)| (path.to_owned(), text.to_owned())).into())
    };
    for import in [
        "use crate::{a, c::{self, d}};",
        "super::super::c();\nuse crate::c;",
        "crate::c::f::<u8>()",
    ] {
        assert_eq!(with(import), ["a::b", "c"], "{import}");
    }
    assert_eq!(with("use super::super::Root;"), ["", "a::b"]);
    for none in [
        "use super::A;",
        "// crate::c\nuse std::c::d;",
        "#[cfg(test)]\nmod tests { use crate::c; }",
    ] {
        assert_eq!(with(none), Vec::<String>::new(), "{none}");
    }
}

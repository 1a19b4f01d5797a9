//! The arrows between rooms: what `docs/architecture.md` allows is what `src/` does.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::{Text, code_words, expect_none, read, sources, table};

const DOCUMENT: &str = "docs/architecture.md";

/// Room → the rooms that it may use, as the document's table says.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    table(&read(DOCUMENT), "Rooms")
        .iter()
        .map(|row| {
            (
                room_name(&code_words(&row[0])[0]),
                code_words(&row[2]).iter().map(|word| room_name(word)).collect(),
            )
        })
        .collect()
}

fn room_name(word: &str) -> String {
    word.trim_end_matches('/').to_owned()
}

/// The room of a file: the folder below `src/`; none for `lib.rs` and `main.rs`.
fn room(file: &Text) -> Option<&str> {
    let below = file.path.strip_prefix("src/")?;
    below.split_once('/').map(|(folder, _)| folder)
}

/// A line's code: nothing of a comment.
fn code(line: &str) -> &str {
    let line = line.trim_start();
    if line.starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) }
}

/// The first segments of every `crate::…` path in this source, those in `crate::{a::…, b}` too.
fn used_rooms(source: &str) -> Vec<String> {
    let text: String = source.lines().map(code).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        // `$crate::` in a macro and `other_crate::` are not this crate's root.
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(first_segments(group));
        } else {
            found.push(identifier(rest));
        }
    }
    found
}

/// The first segment of every member of a `{…}` group whose opening brace was just passed.
fn first_segments(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut member_begins = true;
    let mut found = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => member_begins = true,
            c if depth == 0 && member_begins && !c.is_whitespace() => {
                found.push(identifier(&group[at..]));
                member_begins = false;
            }
            _ => {}
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn the_table_names_every_room_and_no_other() {
    let named: BTreeSet<String> = allowed().into_keys().filter(|name| !name.ends_with(".rs")).collect();
    let there: BTreeSet<String> = sources().iter().filter_map(room).map(str::to_owned).collect();
    let unexpected: Vec<String> = there.difference(&named).cloned().collect();
    expect_none("rooms in src/ that the table does not name", &unexpected);
    let missing: Vec<String> = named.difference(&there).cloned().collect();
    expect_none("rooms in the table that are not in src/", &missing);
}

#[test]
fn imports_run_only_where_the_table_allows() {
    let allowed = allowed();
    let rooms: BTreeSet<&String> = allowed.keys().collect();
    let mut offences = Vec::new();
    for file in sources() {
        let Some(here) = room(&file) else { continue };
        for used in used_rooms(&file.content) {
            if used != here && rooms.contains(&used) && !allowed[here].contains(&used) {
                offences.push(format!("{} uses `{used}`", file.path));
            }
        }
    }
    offences.dedup();
    expect_none("arrows that the table of docs/architecture.md does not allow", &offences);
}

#[test]
fn nothing_leaves_its_room_by_super() {
    let mut offences = Vec::new();
    for file in sources() {
        let Some(below) = file.path.strip_prefix("src/") else { continue };
        // How many modules deep the file is: src/a/mod.rs 1, src/a/b.rs 2, src/a/b/mod.rs 2.
        let depth = below.split('/').filter(|part| *part != "mod.rs").count();
        for (number, line) in file.content.lines().enumerate() {
            let up = code(line).matches("super::").count();
            // An inner module (tests) is one deeper than its file; its lines are indented.
            let inner = usize::from(line.starts_with(' '));
            if room(&file).is_some()
                && code(line).contains(&"super::".repeat(up.max(2)))
                && up >= depth + inner
            {
                offences.push(format!("{}:{}", file.path, number + 1));
            }
        }
    }
    expect_none("paths that climb out of their room; write `crate::` so that the arrow is seen", &offences);
}

#[test]
fn the_program_reaches_the_library_only_through_the_command_line() {
    let main = read("src/main.rs");
    let allowed = &allowed()["main.rs"];
    let offences: Vec<String> = main
        .lines()
        .map(code)
        .flat_map(|line| {
            line.match_indices("hyper2kvm::").map(move |(at, path)| identifier(&line[at + path.len()..]))
        })
        .filter(|used| !used.is_empty() && !allowed.contains(used))
        .collect();
    expect_none("rooms that main.rs uses beyond those in the table", &offences);
}

#[test]
fn a_crate_with_one_home_is_used_nowhere_else() {
    let mut offences = Vec::new();
    for row in table(&read(DOCUMENT), "Crates with one home") {
        let homes: Vec<String> =
            code_words(&row[1]).iter().map(|home| format!("src/{}", room_name(home))).collect();
        for krate in code_words(&row[0]) {
            let name = krate.replace('-', "_");
            for file in sources() {
                let at_home = homes.iter().any(|home| {
                    file.path == format!("{home}.rs") || file.path == *home || file.is_below(home)
                });
                if !at_home && mentions(&file.content, &name) {
                    offences.push(format!("{} uses {krate}", file.path));
                }
            }
        }
    }
    expect_none("crates used outside their home (docs/architecture.md)", &offences);
}

/// Whether the code has a path that starts with this crate's name.
fn mentions(source: &str, krate: &str) -> bool {
    let path = format!("{krate}::");
    source.lines().map(code).any(|line| {
        line.match_indices(&path).any(|(at, _)| {
            !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
    })
}

#[test]
fn unsafe_stands_only_where_the_document_says() {
    let row = table(&read(DOCUMENT), "Crates with one home")
        .into_iter()
        .find(|row| code_words(&row[0]).iter().any(|word| word == "unsafe"))
        .expect("the table has no row for `unsafe`");
    let homes: Vec<String> =
        code_words(&row[1]).iter().map(|home| format!("src/{}", room_name(home))).collect();
    let offences: Vec<String> = sources()
        .into_iter()
        .filter(|file| !homes.iter().any(|home| file.path == format!("{home}.rs") || file.is_below(home)))
        .filter(|file| {
            file.content.lines().map(code).any(|line| {
                [
                    "unsafe {",
                    "unsafe fn",
                    "unsafe impl",
                    "unsafe extern",
                    "allow(unsafe_code)",
                    "expect(unsafe_code)",
                ]
                .iter()
                .any(|form| line.contains(form))
            })
        })
        .map(|file| file.path)
        .collect();
    expect_none("`unsafe` outside its home", &offences);
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let source = "use crate::model::job;\nuse crate::{disk::{Format, detect}, sys};\n// crate::cli is only told of\nlet x = crate::service::run();\n$crate::nothing; my_crate::other;";
    assert_eq!(used_rooms(source), ["model", "disk", "sys", "service", "nothing"]);
}

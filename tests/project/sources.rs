//! How every file of the project is: it says what it is for, it is one thing, and it names nothing
//! of the machine it was written on.

use crate::files::{Text, all, expect_none, sources};

/// More is two things.
const MAX_LINES: usize = 500;

/// The hosts that the project may name: examples, and names that formats and licences prescribe.
const HOSTS: [&str; 17] = [
    "example.com",
    "example.org",
    "example.net",
    "localhost",
    "127.0.0.1",
    // Where clouds tell a machine its secrets: nothing is ever asked there.
    "169.254.169.254",
    "json-schema.org",
    "www.apache.org",
    "libvirt.org",
    "schemas.dmtf.org",
    "schemas.xmlsoap.org",
    "www.vmware.com",
    "www.virtualbox.org",
    "schemas.citrix.com",
    "www.microsoft.com",
    "www.w3.org",
    "spec.openapis.org",
];

/// Written by tools, with what they put there.
fn is_generated(file: &Text) -> bool {
    file.path == "Cargo.lock"
}

#[test]
fn every_rust_file_says_what_it_is_for() {
    let offences: Vec<String> = all()
        .into_iter()
        .filter(|file| file.is_rust() && !file.content.starts_with("//! "))
        .map(|file| file.path)
        .collect();
    expect_none("files without a `//!` header", &offences);
}

#[test]
fn every_rust_file_is_short_enough_to_be_one_thing() {
    let offences: Vec<String> = all()
        .into_iter()
        .filter(Text::is_rust)
        .map(|file| (file.content.lines().count(), file.path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    expect_none("files of more than 500 lines", &offences);
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    let marks = ["TODO", "FIXME", "XXX:", "todo!(", "unimplemented!("];
    let mut offences = Vec::new();
    for file in sources() {
        for (number, line) in file.content.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                offences.push(format!("{}:{}", file.path, number + 1));
            }
        }
    }
    expect_none("marks of unfinished work", &offences);
}

#[test]
fn no_test_is_switched_off() {
    let mark = concat!("#[", "ignore");
    let offences: Vec<String> = all()
        .into_iter()
        .filter(|file| file.is_rust() && file.content.contains(mark))
        .map(|file| file.path)
        .collect();
    expect_none("tests that never run", &offences);
}

#[test]
fn no_host_is_named_but_examples() {
    let mut offences = Vec::new();
    for file in all().iter().filter(|file| !is_generated(file)) {
        for (number, line) in file.content.lines().enumerate() {
            for (at, _) in line.match_indices("://") {
                let host: String = line[at + 3..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || ".-".contains(*c))
                    .collect();
                let scheme_is_web = line[..at].ends_with("http") || line[..at].ends_with("https");
                // A host with a dot: `http://unix`, `http://{host}` and the like name nobody.
                let known = HOSTS.iter().any(|known| host == *known || host.ends_with(&format!(".{known}")));
                // What libosinfo calls systems looks like addresses, and is none.
                let names_system = line.contains("libosinfo");
                if scheme_is_web && host.contains('.') && !known && !names_system {
                    offences.push(format!("{}:{}: {host}", file.path, number + 1));
                }
            }
        }
    }
    expect_none("hosts named in the project", &offences);
}

#[test]
fn no_path_of_a_workplace_is_named() {
    let workplaces = [
        concat!("/work", "/main"),
        concat!("/work", "/wt"),
        concat!("/work", "/shared"),
        concat!("/.", "library/"),
    ];
    let mut offences = Vec::new();
    for file in all() {
        for (number, line) in file.content.lines().enumerate() {
            if workplaces.iter().any(|path| line.contains(path)) {
                offences.push(format!("{}:{}", file.path, number + 1));
            }
        }
    }
    expect_none("paths of the machine that this was written on", &offences);
}

//! Manifests that are refused, each as a file in `bad/`, and what is said about each, in `bad/EXPECTED.tsv`.
//!
//! The table (file, kind, field, line, column, message) is also what the daemon's tests drop and expect.

use std::fs;
use std::path::Path;

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::planner::{Nowhere, Submission, complaints};

use crate::golden;

const HEAD: &str = "file\tkind\tfield\tline\tcolumn\tmessage\n";

#[test]
fn every_bad_manifest_is_refused_at_the_right_place_in_the_right_words() {
    let mut files: Vec<_> =
        fs::read_dir(golden::path("bad")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "json"));
    files.sort();
    assert!(files.len() >= 60, "only {} bad manifests are left", files.len());
    let settings = Settings::defaults(Path::new("/state"), 2);
    let mut table = HEAD.to_owned();
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(&path).unwrap();
        let error = match Submission::read(&bytes, name, Path::new("/drops"), &settings) {
            Ok(_) => panic!("{name} was accepted"),
            Err(error) => error,
        };
        let all = complaints(&bytes, name, Path::new("/drops"), &settings, &mut Nowhere);
        assert!(
            all.contains(&error),
            "{name}: all that is wrong with it lacks what it is refused for: {all:?}"
        );
        let place = &error.details().place;
        assert!(place.file.is_some(), "{name}: the file is not named");
        let number = |number: Option<u32>| number.map_or("-".to_owned(), |number| number.to_string());
        let message = error.to_string();
        let message = message.strip_prefix(name).unwrap().split_once(' ').unwrap().1.to_owned();
        assert!(!message.contains(['\n', '\t']), "{name}: {message}");
        table.push_str(&format!(
            "{name}\t{}\t{}\t{}\t{}\t{message}\n",
            error.kind(),
            place.field.as_deref().unwrap_or("-"),
            number(place.line),
            number(place.column),
        ));
    }
    golden::check("bad/EXPECTED.tsv", &table);
}

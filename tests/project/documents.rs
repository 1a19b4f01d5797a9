//! Documents that tell the truth: links lead somewhere, lists are complete, versions agree.

use std::collections::BTreeSet;

use crate::files::{all, code_words, expect_none, read, root, table};

/// The value of `key = "…"` in the first section of a manifest.
fn package_version() -> String {
    read("Cargo.toml")
        .lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"').map(str::to_owned))
        .expect("Cargo.toml has no version")
}

/// The crates of the dependency sections of `Cargo.toml`.
fn dependencies() -> BTreeSet<String> {
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in read("Cargo.toml").lines() {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.starts_with("dependencies]") || section.starts_with("dev-dependencies]");
        } else if inside
            && !line.starts_with('#')
            && let Some((name, _)) = line.split_once('=')
        {
            found.insert(name.trim().to_owned());
        }
    }
    found
}

#[test]
fn links_in_documents_lead_to_files() {
    let mut offences = Vec::new();
    for file in all().iter().filter(|file| file.path.ends_with(".md")) {
        let directory = root().join(&file.path);
        let directory = directory.parent().unwrap();
        for (at, _) in file.content.match_indices("](") {
            let target: String =
                file.content[at + 2..].chars().take_while(|c| *c != ')' && *c != ' ').collect();
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !directory.join(path).exists() {
                offences.push(format!("{}: {target}", file.path));
            }
        }
    }
    expect_none("links that lead nowhere", &offences);
}

#[test]
fn the_changelog_knows_this_version() {
    let heading = format!("## [{}]", package_version());
    assert!(read("CHANGELOG.md").contains(&heading), "CHANGELOG.md has no `{heading}`");
}

#[test]
fn every_dependency_is_explained_and_no_other() {
    let document = read("docs/dependencies.md");
    let mut explained: BTreeSet<String> = BTreeSet::new();
    for heading in ["What is linked", "What only tests use"] {
        for row in table(&document, heading) {
            explained.extend(code_words(&row[0]));
        }
    }
    let used = dependencies();
    let missing: Vec<String> = used.difference(&explained).cloned().collect();
    expect_none("crates in Cargo.toml that docs/dependencies.md does not explain", &missing);
    let stale: Vec<String> = explained.difference(&used).cloned().collect();
    expect_none("crates in docs/dependencies.md that Cargo.toml does not have", &stale);
}

#[test]
fn the_makefile_has_what_the_readme_promises() {
    let makefile = read("Makefile");
    for target in ["run", "test", "lint", "bench", "package", "fuzz-smoke", "clean"] {
        assert!(makefile.contains(&format!("\n{target}:")), "the Makefile has no target `{target}`");
    }
    let readme = read("README.md");
    for command in ["make run", "make test"] {
        assert!(readme.contains(command), "README.md does not tell of `{command}`");
    }
}

#[test]
fn every_file_that_a_script_of_the_makefile_names_is_there() {
    let mut offences = Vec::new();
    for word in read("Makefile").split_whitespace() {
        let is_script = [".ci/", "packaging/", "tests/"].iter().any(|top| word.starts_with(top));
        if is_script && !root().join(word).exists() {
            offences.push(word.to_owned());
        }
    }
    expect_none("scripts that the Makefile calls and that are not there", &offences);
}

/// The tests that the tables of a document name: the words in the last cell of rows below a head whose last cell begins with `test`.
fn named_tests(document: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut names_tests = false;
    for line in document.lines() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        match line.starts_with('|') {
            false => names_tests = false,
            true if cells.last().is_some_and(|cell| cell.starts_with("test")) => names_tests = true,
            true if names_tests => tests.extend(cells.last().into_iter().flat_map(|cell| code_words(cell))),
            true => {}
        }
    }
    tests
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let texts = all();
    let rust: Vec<&str> =
        texts.iter().filter(|file| file.is_rust()).map(|file| file.content.as_str()).collect();
    let documents = texts.iter().filter(|file| file.path.starts_with("docs/") && file.path.ends_with(".md"));
    let named: Vec<(&str, String)> = documents
        .flat_map(|file| named_tests(&file.content).into_iter().map(|test| (file.path.as_str(), test)))
        .collect();
    assert!(named.len() > 20, "the tables of tests are not found: {named:?}");
    let is_there = |test: &str| match test.split_once('*') {
        // Files by a pattern: their directory has to be there.
        Some((before, _)) => root().join(before).parent().is_some_and(std::path::Path::is_dir),
        None if test.contains('/') => root().join(test).exists(),
        None => {
            // A function, or a row of a table that a macro makes functions of.
            let name = test.rsplit("::").next().unwrap_or_default();
            let forms = [format!("fn {name}("), format!("    {name}: ")];
            rust.iter().any(|source| forms.iter().any(|form| source.contains(form)))
        }
    };
    let missing = named
        .iter()
        .filter(|(_, test)| !is_there(test))
        .map(|(document, test)| format!("{document}: `{test}`"));
    expect_none("tests that documents name and nobody wrote", &missing.collect::<Vec<_>>());
}

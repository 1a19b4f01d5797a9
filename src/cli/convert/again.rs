//! How an interrupted conversion is gone on with: the same command line, for a person to copy.

/// The command line again, with `--resume`.
pub(super) fn resume_line() -> String {
    let mut words: Vec<String> = vec!["hyper2kvm".to_owned()];
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let resumed = arguments.iter().any(|word| word == "--resume");
    for word in arguments {
        let is_command = word == "convert" || word == "fix";
        words.push(quoted(&word));
        if is_command && !resumed && !words.iter().any(|word| word == "--resume") {
            words.push("--resume".to_owned());
        }
    }
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_a_shell_takes_back_is_quoted() {
        assert_eq!(quoted("x.vmdk"), "x.vmdk");
        assert_eq!(quoted("my disk's"), r"'my disk'\''s'");
        assert_eq!(quoted(""), "''");
    }
}

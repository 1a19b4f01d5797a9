//! Takes secrets out of texts: of values whose key names a secret, of URLs, of authorization headers.
//!
//! It works on lines, so that it does the same for YAML, JSON and logs. It would rather take out too
//! much.

/// What stands in a secret's place.
const GONE: &str = "[redacted]";

/// A key that holds one of these holds a secret.
const SECRET_KEYS: [&str; 8] =
    ["password", "passwd", "passphrase", "secret", "token", "private_key", "authorization", "api_key"];

/// Keys that name where a secret is, or a policy about secrets, and hold none.
const HARMLESS_ENDS: [&str; 6] = ["_file", "_env", "_credential", "_dir", "_dirs", "allow_inline"];

/// The text without its secrets.
pub(super) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut block_indent = None;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        // The lines of a YAML block below a secret's key are the secret.
        if block_indent.is_some_and(|outer| indent > outer || line.trim().is_empty()) {
            continue;
        }
        block_indent = None;
        match secret_value_at(line) {
            Some(at) => {
                if opens_block(&line[at..]) {
                    block_indent = Some(indent);
                }
                let tail = if line[at..].trim_end().ends_with(',') { "," } else { "" };
                out.push_str(&format!("{} \"{GONE}\"{tail}\n", line[..at].trim_end()));
            }
            None => out.push_str(&without_logins(line)),
        }
    }
    out
}

/// Where the value of a secret's key begins on this line: behind the `:` or `=` after the first such key.
fn secret_value_at(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let mut from = 0;
    while let Some(found) = SECRET_KEYS.iter().filter_map(|key| lower[from..].find(key)).min() {
        let start = from + found;
        let key_length = lower[start..]
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))
            .unwrap_or(lower.len() - start);
        let end = start + key_length;
        let key = &lower[start..end];
        let behind = lower[end..].trim_start_matches(['"', '\'']).trim_start();
        if behind.starts_with([':', '=']) && !HARMLESS_ENDS.iter().any(|harmless| key.ends_with(harmless)) {
            return Some(line.len() - behind.len() + 1);
        }
        from = end.max(start + 1);
        if from >= line.len() {
            break;
        }
    }
    None
}

fn opens_block(value: &str) -> bool {
    matches!(value.trim(), "" | "|" | ">" | "|-" | ">-" | "{" | "[")
}

/// `scheme://user:password@host` without the password.
fn without_logins(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let authority =
            after.find(|c: char| c == '/' || c.is_whitespace() || c == '"').unwrap_or(after.len());
        match after[..authority].rfind('@') {
            Some(login) => {
                out.push_str(GONE);
                rest = &after[login..];
            }
            None => rest = after,
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_gone_and_the_rest_stays() {
        for (text, redacted) in [
            ("password: hunter2\nhost: esx\n", "password: \"[redacted]\"\nhost: esx\n"),
            ("  \"password\": \"hunter2\",\n  \"a\": 1\n", "  \"password\": \"[redacted]\",\n  \"a\": 1\n"),
            ("smtp_passwd=hunter2 x\n", "smtp_passwd= \"[redacted]\"\n"),
            ("INFO Authorization: Bearer abc\n", "INFO Authorization: \"[redacted]\"\n"),
            ("get https://u:p@host/x and ftp://h/\n", "get https://[redacted]@host/x and ftp://h/\n"),
            ("password_file: /etc/x\n", "password_file: /etc/x\n"),
            ("the password was refused\n", "the password was refused\n"),
            ("private_key: |\n  line1\n  line2\nnext: 1\n", "private_key: \"[redacted]\"\nnext: 1\n"),
        ] {
            assert_eq!(redact(text), redacted);
        }
    }

    #[test]
    fn a_second_key_on_a_line_is_found_behind_a_harmless_one() {
        assert!(!redact("{password_file: /x, password: hunter2}\n").contains("hunter2"));
    }

    #[test]
    fn any_text_passes_through() {
        for text in ["", "\n", "password", "token:", "ä password: ö\n", "://@", "secret secret=1"] {
            let _ = redact(text);
        }
    }
}

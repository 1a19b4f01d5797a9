//! The list of checksums that comes with an appliance: `SHA256(web-disk1.vmdk)= 4a1…`, a file a line.
//!
//! Exporters differ in blanks, letters and line ends. A line that cannot be understood refuses the list: half of one would say that the
//! other half needs no checking. What is not here: making a sum.

use std::collections::BTreeMap;

use crate::model::checksum::Algorithm;
use crate::model::error::{Error, Kind, Result};

/// A list of some thousand files has some hundred KiB.
pub(super) const MOST_BYTES: u64 = 1 << 20;

/// By file: its checksum, as manifests write it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sums(BTreeMap<String, String>);

impl Sums {
    pub(super) fn parse(bytes: &[u8]) -> Result<Sums> {
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))?;
        let mut sums = BTreeMap::new();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let broken = || bad(&format!("line {} is no checksum: `{}`", number + 1, shown(line)));
            let (algorithm, name, digits) = parts(line).ok_or_else(broken)?;
            let algorithm = algorithm.ok_or_else(|| {
                let first = line.split('(').next().unwrap_or_default().trim();
                Error::new(
                    Kind::Unsupported,
                    format!("the checksums of the appliance are made by `{}`", shown(first)),
                )
                .allowed(Algorithm::ALL.map(Algorithm::name))
                .advice("export it again with SHA-256, or remove the list (`.mf`) from it")
            })?;
            if digits.len() != algorithm.digits() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(broken());
            }
            let sum = format!("{}:{}", algorithm.name(), digits.to_lowercase());
            if sums.insert(name.to_owned(), sum).is_some() {
                return Err(bad(&format!("`{}` is in it twice", shown(name))));
            }
        }
        if sums.is_empty() {
            return Err(bad("it holds nothing"));
        }
        Ok(Sums(sums))
    }

    /// What a file has to hash to.
    pub(super) fn of(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// `SHA256 (name) = digits` → the algorithm if it is known, the name, the digits.
fn parts(line: &str) -> Option<(Option<Algorithm>, &str, &str)> {
    let (algorithm, rest) = line.split_once('(')?;
    // A name may hold brackets itself.
    let (name, digits) = rest.rsplit_once('=')?;
    let name = name.trim_end().strip_suffix(')')?;
    let algorithm = algorithm.trim();
    let known = Algorithm::named(&algorithm.replace('-', ""));
    (!algorithm.is_empty() && !name.is_empty()).then(|| (known, name, digits.trim()))
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect::<String>().escape_debug().to_string()
}

fn bad(why: &str) -> Error {
    Error::new(Kind::Source, format!("the appliance's list of checksums is refused: {why}"))
        .advice("export or download the appliance again")
        .permanent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_however_they_are_written() {
        let (one, two, five) = ("A".repeat(40), "b".repeat(64), "c".repeat(128));
        let text = format!("SHA1(a (1).ovf)= {one}\r\n\r\nsha256 (b.vmdk) ={two}\r\nSHA-512(c)={five}");
        let sums = Sums::parse(text.as_bytes()).unwrap();
        assert_eq!(sums.of("a (1).ovf"), Some(format!("sha1:{}", "a".repeat(40)).as_str()));
        assert_eq!(sums.of("b.vmdk"), Some(format!("sha256:{two}").as_str()));
        assert_eq!(sums.of("c"), Some(format!("sha512:{five}").as_str()));
        assert_eq!(sums.names().count(), 3);
    }

    #[test]
    fn a_list_that_is_not_whole_is_no_list() {
        let half = format!("SHA256(a)= {}\nSHA256(b)= {}", "a".repeat(64), "b".repeat(20));
        let twice = format!("SHA256(a)= {0}\nSHA256(a)= {0}", "a".repeat(64));
        for text in [half.as_str(), &twice, "", "SHA256(a", "nonsense", "SHA256()= 00", "\u{1b}[31m(a)"] {
            let error = Sums::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), Kind::Source, "{text}");
            assert!(!error.to_string().contains('\u{1b}'), "{error}");
        }
        assert_eq!(Sums::parse(b"\xff").unwrap_err().kind(), Kind::Source);
        let old = Sums::parse(format!("MD5(a)= {}", "0".repeat(32)).as_bytes()).unwrap_err();
        assert_eq!(old.kind(), Kind::Unsupported);
    }
}

//! Checksums as people and manifests write them: `sha256:` and digits. What is not here: the sums themselves.

/// How a checksum is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Old exporters; good against accidents.
    Sha1,
    /// What everybody uses.
    Sha256,
    /// The long one.
    Sha512,
}

impl Algorithm {
    /// Every one.
    pub const ALL: [Algorithm; 3] = [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512];

    /// Its name in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha1 => "sha1",
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// The one of this name, however it is written.
    #[must_use]
    pub fn named(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// How many hex digits its sums have.
    #[must_use]
    pub fn digits(self) -> usize {
        match self {
            Algorithm::Sha1 => 40,
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// `sha256:<digits>`, or digits alone, which are of SHA-256.
#[must_use]
pub fn parse(text: &str) -> Option<(Algorithm, &str)> {
    let (algorithm, digits) = match text.split_once(':') {
        Some((name, digits)) => (Algorithm::named(name)?, digits),
        None => (Algorithm::Sha256, text),
    };
    let is_sum = digits.len() == algorithm.digits() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_sum.then_some((algorithm, digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_names_how_it_is_made_and_has_all_its_digits() {
        let (short, long) = ("0".repeat(40), "f".repeat(64));
        assert_eq!(parse(&format!("sha1:{short}")), Some((Algorithm::Sha1, short.as_str())));
        assert_eq!(parse(&format!("SHA256:{long}")), Some((Algorithm::Sha256, long.as_str())));
        assert_eq!(parse(&long), Some((Algorithm::Sha256, long.as_str())));
        for bad in
            [format!("sha256:{short}"), format!("md5:{short}"), format!("sha1:{}", "g".repeat(40)), short]
        {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }
}

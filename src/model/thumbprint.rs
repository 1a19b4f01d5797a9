//! The thumbprint of a certificate: the SHA-256 of its bytes, as people pin it and as it is told to them. Pure.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A SHA-256 has so many bytes.
const BYTES: usize = 32;
/// A SHA-1 has so many: what older tools show.
const SHA1_BYTES: usize = 20;

/// SHA-256 of a server's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Thumbprint(pub [u8; BYTES]);

impl Thumbprint {
    /// From hexadecimal digits, with or without colons; the error says what is wrong with them.
    pub fn parse(text: &str) -> Result<Thumbprint, &'static str> {
        let digits: Vec<u8> = text.trim().bytes().filter(|byte| !matches!(byte, b':' | b' ')).collect();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err("a thumbprint is hexadecimal digits, with or without colons");
        }
        if digits.len() == 2 * SHA1_BYTES {
            return Err("this is a SHA-1 thumbprint, and only SHA-256 proves a certificate");
        }
        if digits.len() != 2 * BYTES {
            return Err("a SHA-256 thumbprint has 64 hexadecimal digits");
        }
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            // Both are digits: that was looked at above.
            *byte = pair
                .iter()
                .filter_map(|digit| char::from(*digit).to_digit(16))
                .fold(0, |high, low| (high << 4) | low as u8);
        }
        Ok(Thumbprint(bytes))
    }
}

impl fmt::Display for Thumbprint {
    /// `AB:CD:…`, as tools for certificates print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thumbprint({self})")
    }
}

impl From<Thumbprint> for String {
    fn from(thumbprint: Thumbprint) -> String {
        thumbprint.to_string()
    }
}

impl TryFrom<String> for Thumbprint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Thumbprint, &'static str> {
        Thumbprint::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_read_as_tools_print_it_and_printed_so_again() {
        let printed = (0..32u8).map(|byte| format!("{:02X}", byte * 7)).collect::<Vec<_>>().join(":");
        let read = Thumbprint::parse(&printed).unwrap();
        assert_eq!(read.to_string(), printed);
        assert_eq!(read.0[31], 31 * 7);
        assert_eq!(Thumbprint::parse(&printed.replace(':', "").to_lowercase()), Ok(read));
        assert_eq!(Thumbprint::parse(&format!(" {printed}\n")), Ok(read));
    }

    #[test]
    fn what_is_no_thumbprint_is_refused_with_what_is_wrong() {
        for (text, says) in [
            ("", "hexadecimal"),
            ("sha256:abcd", "hexadecimal"),
            (&"ab".repeat(31), "64"),
            (&"ab".repeat(20), "SHA-1"),
            (&"äb".repeat(32), "hexadecimal"),
        ] {
            assert!(Thumbprint::parse(text).unwrap_err().contains(says), "{text}");
        }
    }
}

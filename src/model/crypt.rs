//! Passwords as a guest's shadow file keeps them: `$6$…`, the SHA-512 method of crypt(3).
//!
//! Pure: the same password, salt and rounds give the same text, byte by byte what glibc gives. The method is Ulrich Drepper's of 2007,
//! with its published examples as tests. What is not here: other methods, which are only passed on, and where a salt comes from.

use sha2::{Digest, Sha512};

/// What glibc takes where a salt names no number of rounds.
const ROUNDS: u32 = 5000;
/// A longer salt is cut here.
const MOST_SALT: usize = 16;
/// The digits, lowest first.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const SHA512: usize = 64;

/// A password's text for the shadow file.
#[must_use]
pub fn sha512_crypt(password: &str, salt: &str) -> String {
    let salt = cut(salt);
    format!("$6${salt}${}", hashed(password.as_bytes(), salt.as_bytes(), ROUNDS))
}

/// A salt that these bytes decide.
#[must_use]
pub fn salt_of(seed: &[u8]) -> String {
    let digest = Sha512::digest(seed);
    digest.iter().take(MOST_SALT).map(|byte| char::from(DIGITS[usize::from(byte & 63)])).collect()
}

fn cut(salt: &str) -> &str {
    let end = salt.char_indices().nth(MOST_SALT).map_or(salt.len(), |(at, _)| at);
    &salt[..end]
}

fn hashed(password: &[u8], salt: &[u8], rounds: u32) -> String {
    let alternate = Sha512::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut first = Sha512::new().chain_update(password).chain_update(salt);
    first.update(repeated(&alternate, password.len()));
    let mut bits = password.len();
    while bits > 0 {
        if bits & 1 == 1 {
            first.update(alternate);
        } else {
            first.update(password);
        }
        bits >>= 1;
    }
    let mut result = first.finalize();

    let mut of_password = Sha512::new();
    for _ in 0..password.len() {
        of_password.update(password);
    }
    let p = repeated(&of_password.finalize(), password.len());
    let mut of_salt = Sha512::new();
    for _ in 0..16 + usize::from(result[0]) {
        of_salt.update(salt);
    }
    let s = repeated(&of_salt.finalize(), salt.len());

    for round in 0..rounds {
        let mut next = Sha512::new();
        if round % 2 == 1 {
            next.update(&p);
        } else {
            next.update(result);
        }
        if round % 3 != 0 {
            next.update(&s);
        }
        if round % 7 != 0 {
            next.update(&p);
        }
        if round % 2 == 1 {
            next.update(result);
        } else {
            next.update(&p);
        }
        result = next.finalize();
    }
    encoded(&result)
}

/// A digest, again and again, up to a length.
fn repeated(digest: &[u8], length: usize) -> Vec<u8> {
    digest.iter().copied().cycle().take(length).collect()
}

/// Three bytes are four digits; which three is the method's own order.
fn encoded(digest: &[u8]) -> String {
    let mut text = String::with_capacity(86);
    let (mut a, mut b, mut c) = (0, 21, 42);
    for _ in 0..21 {
        digits(&mut text, [digest[a], digest[b], digest[c]], 4);
        (a, b, c) = (b + 1, c + 1, a + 1);
    }
    digits(&mut text, [0, 0, digest[SHA512 - 1]], 2);
    text
}

fn digits(text: &mut String, bytes: [u8; 3], count: usize) {
    let mut value = u32::from(bytes[0]) << 16 | u32::from(bytes[1]) << 8 | u32::from(bytes[2]);
    for _ in 0..count {
        text.push(char::from(DIGITS[(value & 63) as usize]));
        value >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_examples_come_out() {
        assert_eq!(
            sha512_crypt("Hello world!", "saltstring"),
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"
        );
        for (password, salt, rounds, hash) in [
            (
                "Hello world!",
                "saltstringsaltst",
                10_000,
                "OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
            ),
            (
                "This is just a test",
                "toolongsaltstrin",
                5000,
                "lQ8jolhgVRVhY4b5pZKaysCLi0QBxGoNeKQzQ3glMhwllF7oGDZxUhx1yxdYcz/e1JSbq3y6JMxxl8audkUEm0",
            ),
            (
                "a very much longer text to encrypt.  This one even stretches over morethan one line.",
                "anotherlongsalts",
                1400,
                "POfYwTEok97VWcjxIiSOjiykti.o/pQs.wPvMxQ6Fm7I6IoYN3CmLs66x9t0oSwbtEW7o7UmJEiDwGqd8p4ur1",
            ),
            (
                "we have a short salt string but not a short password",
                "short",
                77_777,
                "WuQyW2YR.hBNpjjRhpYD/ifIw05xdfeEyQoMxIXbkvr0gge1a1x3yRULJ5CCaUeOxFmtlcGZelFl5CxtgfiAc0",
            ),
            (
                "a short string",
                "asaltof16chars..",
                123_456,
                "BtCwjqMJGx5hrJhZywWvt0RLE8uZ4oPwcelCjmw2kSYu.Ec6ycULevoBK25fs2xXgMNrCzIMVcgEJAstJeonj1",
            ),
        ] {
            assert_eq!(hashed(password.as_bytes(), salt.as_bytes(), rounds), hash, "{password}");
        }
    }

    #[test]
    fn a_salt_is_sixteen_digits_that_its_seed_decides() {
        let salt = salt_of(b"web root");
        assert!(salt.len() == 16 && salt.bytes().all(|byte| DIGITS.contains(&byte)), "{salt}");
        assert_ne!(salt, salt_of(b"db root"));
        assert_eq!(cut("saltstringsaltstring"), "saltstringsaltst");
    }
}

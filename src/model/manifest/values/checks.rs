//! What a text has to look like to be a value of each kind, and what is said when it does not.

use std::net::IpAddr;
use std::path::Path;

use super::normalised;
use crate::model::address::CardAddress;
use crate::model::checksum;
use crate::model::grouping::Grouping;
use crate::model::parse::{Refusal, refuse};
use crate::model::units;

fn no_breaks(text: &str, what: &str) -> Result<(), Refusal> {
    if text.is_empty() {
        return Err(refuse(format!("{what} must not be empty"), "give it a value or remove the key"));
    }
    if text.contains(char::is_control) {
        return Err(refuse(format!("{what} must not hold line breaks or tabs"), "write it on one line"));
    }
    Ok(())
}

pub(super) fn check_id(text: &str) -> Result<String, Refusal> {
    if units::is_id(text) {
        return Ok(text.to_owned());
    }
    let safe = units::safe_id(text);
    Err(refuse(format!("`{}` is not an id", text.escape_debug()), format!("`{safe}` would be one")).allowed(
        "1 to 128 of the letters a-z and A-Z, digits, `_`, `.` and `-`, not beginning with `.` or `-`",
    ))
}

pub(super) fn check_line(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "this text")?;
    if text.chars().count() > 255 {
        return Err(refuse("this text has more than 255 characters", "shorten it"));
    }
    Ok(text.to_owned())
}

pub(super) fn check_disk_pattern(text: &str) -> Result<String, Refusal> {
    let text = check_line(text)?;
    match Grouping::new(&text) {
        Ok(_) => Ok(text),
        Err(why) => Err(refuse(
            why,
            r"write what is before and after them around the groups: `^(?<vm>.+)-(?<disk>\w+)$`",
        )),
    }
}

pub(super) fn check_path(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "a path")?;
    if text.starts_with('~') {
        return Err(refuse(
            "`~` is not expanded: the service has no home directory of yours",
            "write the path out, from `/` or relative to the manifest",
        ));
    }
    if text.len() > 4095 {
        return Err(refuse("a path may have at most 4095 bytes", "shorten it"));
    }
    Ok(text.to_owned())
}

pub(super) fn check_absolute(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "a path")?;
    if !text.starts_with('/') {
        return Err(refuse(format!("`{text}` is a relative path"), "write it out, from `/`"));
    }
    let text = check_path(text)?;
    Ok(normalised(Path::new(&text)).to_string_lossy().into_owned())
}

pub(super) fn check_mac(text: &str) -> Result<String, Refusal> {
    let bad = || {
        refuse(
            format!("`{text}` is not a MAC address"),
            "write six pairs of hex digits, as 52:54:00:12:34:56",
        )
    };
    let separator = if text.contains('-') { '-' } else { ':' };
    let pairs: Vec<&str> = text.split(separator).collect();
    let all_hex = pairs.iter().all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
    if pairs.len() != 6 || !all_hex {
        return Err(bad());
    }
    let mac = pairs.join(":").to_lowercase();
    // The lowest bit of the first byte marks groups; no network card has such an address.
    if u8::from_str_radix(pairs[0], 16).is_ok_and(|first| first & 1 == 1) {
        return Err(refuse(
            format!("`{text}` is a multicast address"),
            "a network card has a unicast address",
        ));
    }
    Ok(mac)
}

pub(super) fn check_interface(text: &str) -> Result<String, Refusal> {
    let fits = (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':');
    if fits {
        return Ok(text.to_owned());
    }
    Err(refuse(
        format!("`{}` is not the name of a network interface", text.escape_debug()),
        "write it as `ip link` shows it, for example br-lan or eth0.100",
    )
    .allowed("1 to 15 bytes without `/`, `:` and spaces"))
}

pub(super) fn check_ip(text: &str) -> Result<String, Refusal> {
    text.parse::<IpAddr>().map(|ip| ip.to_string()).map_err(|_| {
        refuse(format!("`{text}` is not an IPv4 or IPv6 address"), "as 192.0.2.10 or 2001:db8::10")
    })
}

pub(super) fn check_ip_prefix(text: &str) -> Result<String, Refusal> {
    text.parse::<CardAddress>().map(|address| address.to_string()).map_err(|_| {
        refuse(
            format!("`{text}` is not an address with a prefix length"),
            "as 192.0.2.10/24 or 2001:db8::10/64",
        )
    })
}

pub(super) fn check_host(text: &str) -> Result<String, Refusal> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let is_name = text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label);
    if bare.parse::<IpAddr>().is_ok() || is_name {
        return Ok(bare.to_owned());
    }
    Err(refuse(
        format!("`{}` is not a host name or address", text.escape_debug()),
        "as vcenter.example.com or 192.0.2.10, without scheme, user, port or path",
    ))
}

pub(super) fn check_uuid(text: &str) -> Result<String, Refusal> {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    if lengths == [8, 4, 4, 4, 12] && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()) {
        return Ok(text.to_lowercase());
    }
    Err(refuse(format!("`{text}` is not a UUID"), "as 6ba7b810-9dad-11d1-80b4-00c04fd430c8"))
}

pub(super) fn check_checksum(text: &str) -> Result<String, Refusal> {
    let is_named = text.split_once(':').is_some_and(|(name, _)| name == name.to_lowercase());
    let is_lower = !text.contains(|c: char| c.is_ascii_uppercase());
    match checksum::parse(text).filter(|_| is_named) {
        Some(_) if is_lower => Ok(text.to_owned()),
        found => {
            let advice = match found {
                Some(_) => "write the digits in lower case",
                None => "write `sha256:` and the 64 hex digits that `sha256sum` prints",
            };
            Err(refuse("this is not a checksum", advice)
                .allowed("sha256:<64 lower-case hex digits>, sha1:<40>, sha512:<128>"))
        }
    }
}

pub(super) fn check_growth(text: &str) -> Result<String, Refusal> {
    match units::parse_size(text.strip_prefix('+').unwrap_or(text)) {
        Ok(bytes) if bytes > 0 => Ok(text.to_owned()),
        _ => Err(refuse(format!("`{text}` is not a growth"), "write \"+10GiB\" (by) or \"50GiB\" (to)")),
    }
}

pub(super) fn check_group(text: &str) -> Result<String, Refusal> {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
    if first && rest && text.len() <= 32 {
        return Ok(text.to_owned());
    }
    Err(refuse(
        format!("`{}` is not the name of a group", text.escape_debug()),
        "write it as `getent group` shows it",
    ))
}

pub(super) fn check_public_key(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "a key")?;
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let is_type = |word: &str| {
        ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"].iter().any(|known| word.starts_with(known))
    };
    // Every key begins with the length of its type's name: three bytes of zero are four `A`.
    let is_key = |word: &str| {
        word.starts_with("AAAA")
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
    };
    if text.len() <= 16_384 && words.windows(2).any(|pair| is_type(pair[0]) && is_key(pair[1])) {
        return Ok(text.trim().to_owned());
    }
    Err(refuse(
        "this is not a public key of SSH",
        "copy the one line of the file that ends in `.pub`; never the private key",
    )
    .allowed("ssh-ed25519 AAAA… comment"))
}

pub(super) fn check_percent(text: &str) -> Result<String, Refusal> {
    match text.strip_suffix('%').and_then(|number| number.parse::<u8>().ok()) {
        Some(0..=100) => Ok(text.to_owned()),
        _ => Err(refuse(format!("`{text}` is not a percentage"), "write \"20%\"").allowed("0% to 100%")),
    }
}

pub(super) fn check_libvirt_uri(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "a URI")?;
    if text.contains(['?', '#']) {
        return Err(refuse(
            "a libvirt URI in a manifest may not have a query",
            "remove what follows the `?`",
        ));
    }
    match text.split_once("://") {
        Some((scheme, _)) if !scheme.is_empty() => Ok(text.to_owned()),
        _ => Err(refuse(format!("`{text}` is not a libvirt URI"), "as qemu:///system")),
    }
}

fn check_http_url(text: &str) -> Result<String, Refusal> {
    no_breaks(text, "a URL")?;
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !text.contains(char::is_whitespace) => Ok(text.to_owned()),
        _ => Err(refuse(format!("`{text}` is not an http or https URL"), "as https://host/path")),
    }
}

/// Names that stand for values may have spaces around them; nothing else in a URL may.
pub(super) fn check_hook_url(text: &str) -> Result<String, Refusal> {
    let mut plain = String::new();
    for piece in text.split("}}") {
        let (before, name) = piece.split_once("{{").unwrap_or((piece, ""));
        plain.push_str(before);
        plain.push_str(name.trim());
    }
    check_http_url(&plain).map(|_| text.to_owned())
}

pub(super) fn check_mail(text: &str) -> Result<String, Refusal> {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b"<>@,;:\\\"()[]".contains(&b))
    };
    match text.rsplit_once('@') {
        Some((name, host))
            if text.len() <= 254 && is_part(name) && is_part(host) && check_host(host).is_ok() =>
        {
            Ok(text.to_owned())
        }
        _ => Err(refuse(
            format!("`{}` is not an address of mail", text.escape_debug()),
            "as ops@example.com, without a name around it",
        )),
    }
}

pub(super) fn check_mails(text: &str) -> Result<String, Refusal> {
    text.split(',').try_for_each(|one| check_mail(one.trim()).map(drop))?;
    Ok(text.to_owned())
}

pub(super) fn check_week_time(text: &str) -> Result<String, Refusal> {
    let good = text.split_once(' ').is_some_and(|(day, time)| {
        let time = time.split_once(':').and_then(|(h, m)| {
            Some((h.len() == 2 && h.parse::<u8>().ok()? < 24) && (m.len() == 2 && m.parse::<u8>().ok()? < 60))
        });
        ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&day) && time == Some(true)
    });
    if good {
        return Ok(text.to_owned());
    }
    Err(refuse(format!("`{text}` is not a day and time"), "as \"Sat 22:00\""))
}

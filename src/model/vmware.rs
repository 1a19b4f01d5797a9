//! Words of VMware's own that stand in OVF, VMX and its API alike. Pure.

/// `uuid.bios`: the bytes of the system's id as SMBIOS has them, from which VMware makes its serial number too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SystemId([u8; 16]);

/// From this version of VMware's hardware on SMBIOS is new enough for guests to read the first three groups of the id backwards.
const TURNS_GROUPS_SINCE: u32 = 13;

impl SystemId {
    /// `56 4d 0b 8a 11 22 33 44-55 66 77 88 99 aa bb cc`.
    pub(crate) fn parse(text: &str) -> Option<SystemId> {
        let digits: Vec<u8> = text.bytes().filter(|byte| ![b' ', b'-'].contains(byte)).collect();
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        (digits.len() == 32).then_some(SystemId(bytes))
    }

    /// The UUID that the guest reads there, and has to read here. Windows has always turned the groups, Linux does where SMBIOS says so.
    pub(crate) fn uuid(self, hardware: Option<u32>, is_windows: bool) -> String {
        let turns = is_windows || hardware.is_some_and(|version| version >= TURNS_GROUPS_SINCE);
        let order = match turns {
            true => [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15],
            false => [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        };
        let mut text = String::with_capacity(36);
        for (position, byte) in order.into_iter().enumerate() {
            if [4, 6, 8, 10].contains(&position) {
                text.push('-');
            }
            text.push_str(&format!("{:02x}", self.0[byte]));
        }
        text
    }

    /// The serial number that VMware shows its guests.
    pub(crate) fn serial(self) -> String {
        let half =
            |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        format!("VMware-{}-{}", half(&self.0[..8]), half(&self.0[8..]))
    }
}

/// `a%2fb` → `a/b`: vSphere writes `/`, `\` and `%` of a name so.
pub(crate) fn name_decoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, behind)) = rest.split_once('%') {
        text.push_str(before);
        let letter = match behind.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("2f") => Some('/'),
            Some("5c") => Some('\\'),
            Some("25") => Some('%'),
            _ => None,
        };
        text.push(letter.unwrap_or('%'));
        rest = if letter.is_some() { &behind[2..] } else { behind };
    }
    text + rest
}

/// `a/b` → `a%2fb`: how vSphere takes a name.
pub(crate) fn name_encoded(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = "56 4d 0b 8a 11 22 33 44-55 66 77 88 99 aa bb cc";

    #[test]
    fn a_guest_reads_the_same_id_on_both_sides() {
        let id = SystemId::parse(WRITTEN).unwrap();
        assert_eq!(id.uuid(Some(11), false), "564d0b8a-1122-3344-5566-778899aabbcc");
        assert_eq!(id.uuid(None, false), "564d0b8a-1122-3344-5566-778899aabbcc");
        assert_eq!(id.uuid(Some(13), false), "8a0b4d56-2211-4433-5566-778899aabbcc");
        assert_eq!(id.uuid(Some(11), true), "8a0b4d56-2211-4433-5566-778899aabbcc");
        assert_eq!(id.serial(), format!("VMware-{WRITTEN}"));
    }

    #[test]
    fn what_is_no_id_is_none() {
        for text in ["", "56 4d", "zz 4d 0b 8a 11 22 33 44-55 66 77 88 99 aa bb cc", &WRITTEN.repeat(2)] {
            assert_eq!(SystemId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_is_written_as_it_is_read() {
        for name in ["web", "a/b", "50%", "a\\b%2fc", ""] {
            assert_eq!(name_decoded(&name_encoded(name)), name);
        }
    }
}

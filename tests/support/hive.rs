//! A small registry hive of Windows, as its own tools lay one out.

const HEAD_BYTES: usize = 4096;
const PAGE_BYTES: usize = 4096;
/// Of a page, in front of its cells.
const PAGE_HEAD_BYTES: usize = 32;
const NOTHING: u32 = u32::MAX;
const ROOT: u16 = 0x2c;
const NAME_IS_ASCII: u16 = 0x20;
const TEXT: u32 = 1;

/// A key with its values and the keys below it.
#[derive(Default)]
pub struct Key {
    name: String,
    values: Vec<(String, String)>,
    keys: Vec<Key>,
}

impl Key {
    /// The key at a path below, made where it is not.
    pub fn at(&mut self, path: &str) -> &mut Key {
        path.split('\\').fold(self, |key, name| {
            let place = key.keys.iter().position(|below| below.name == name).unwrap_or_else(|| {
                key.keys.push(Key { name: name.to_owned(), ..Key::default() });
                key.keys.len() - 1
            });
            &mut key.keys[place]
        })
    }

    /// Adds a value.
    pub fn set(&mut self, name: &str, text: &str) -> &mut Key {
        self.values.push((name.to_owned(), text.to_owned()));
        self
    }

    /// The hive whose root this is; everything has to fit into one page.
    pub fn hive(&self) -> Vec<u8> {
        let mut cells = Vec::new();
        let root = self.write(&mut cells, ROOT);
        let left = PAGE_BYTES - PAGE_HEAD_BYTES - cells.len();
        // What is left of the page is one free cell.
        cells.extend(i32::try_from(left).unwrap().to_le_bytes());
        cells.resize(PAGE_BYTES - PAGE_HEAD_BYTES, 0);

        let mut hive = b"regf".to_vec();
        for word in [1, 1, 0, 0, 1, 5, 0, 1, root, PAGE_BYTES as u32, 1] {
            hive.extend(word.to_le_bytes());
        }
        hive.resize(508, 0);
        let sum =
            hive.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).fold(0, |a, b| a ^ b);
        hive.extend(sum.to_le_bytes());
        hive.resize(HEAD_BYTES, 0);
        hive.extend(b"hbin");
        for word in [0, PAGE_BYTES as u32, 0, 0, 0, 0, 0] {
            hive.extend(word.to_le_bytes());
        }
        hive.extend(cells);
        hive
    }

    fn write(&self, cells: &mut Vec<u8>, flags: u16) -> u32 {
        let below: Vec<(u32, &Key)> =
            self.keys.iter().map(|key| (key.write(cells, NAME_IS_ASCII), key)).collect();
        let values: Vec<u32> =
            self.values.iter().map(|(name, text)| write_value(cells, name, text)).collect();
        let value_list = match values.is_empty() {
            true => NOTHING,
            false => cell(cells, &values.iter().flat_map(|at| at.to_le_bytes()).collect::<Vec<u8>>()),
        };
        let mut list = b"lf".to_vec();
        list.extend(u16::try_from(below.len()).unwrap().to_le_bytes());
        for (at, key) in &below {
            list.extend(at.to_le_bytes());
            list.extend(key.name.bytes().chain([0; 4]).take(4));
        }
        let key_list = if below.is_empty() { NOTHING } else { cell(cells, &list) };
        let mut record = b"nk".to_vec();
        record.extend(flags.to_le_bytes());
        record.extend([0; 8]);
        let counts =
            [below.len() as u32, 0, key_list, NOTHING, values.len() as u32, value_list, NOTHING, NOTHING];
        for word in [0, NOTHING].into_iter().chain(counts).chain([0; 5]) {
            record.extend(word.to_le_bytes());
        }
        record.extend(u16::try_from(self.name.len()).unwrap().to_le_bytes());
        record.extend([0; 2]);
        record.extend(self.name.bytes());
        cell(cells, &record)
    }
}

fn write_value(cells: &mut Vec<u8>, name: &str, text: &str) -> u32 {
    let data: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let at = cell(cells, &data);
    let mut record = b"vk".to_vec();
    record.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
    for word in [data.len() as u32, at, TEXT] {
        record.extend(word.to_le_bytes());
    }
    record.extend([1, 0, 0, 0]);
    record.extend(name.bytes());
    cell(cells, &record)
}

/// Adds a used cell; where it is, as others point to it.
fn cell(cells: &mut Vec<u8>, content: &[u8]) -> u32 {
    let at = cells.len() + PAGE_HEAD_BYTES;
    let size = (content.len() + 4).next_multiple_of(8);
    cells.extend((-i32::try_from(size).unwrap()).to_le_bytes());
    cells.extend(content);
    cells.resize(at - PAGE_HEAD_BYTES + size, 0);
    u32::try_from(at).unwrap()
}

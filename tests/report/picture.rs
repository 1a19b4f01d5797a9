//! Pictures as Chromium writes them (PNG, eight bits, not interlaced), and what two of them have in common.
//!
//! Of the PNG format only this is read, with the inflater that the program has anyway; a crate for all of it would be another to keep.

use std::io::Read;

/// A picture, three bytes a pixel.
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pixels: Vec<[u8; 3]>,
}

/// So many pixels each way are one cell when pictures are compared.
const CELL: usize = 16;

impl Picture {
    pub fn decode(png: &[u8]) -> Picture {
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n", "this is no PNG");
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap()) as usize;
        let (width, height, channels) = (number(16), number(20), if png[25] == 6 { 4 } else { 3 });
        assert!(png[24] == 8 && matches!(png[25], 2 | 6) && png[28] == 0, "another sort of PNG");
        let (mut packed, mut at) = (Vec::new(), 8);
        while at < png.len() {
            let length = number(at);
            if &png[at + 4..at + 8] == b"IDAT" {
                packed.extend_from_slice(&png[at + 8..at + 8 + length]);
            }
            at += length + 12;
        }
        let mut lines = Vec::new();
        flate2::read::ZlibDecoder::new(&*packed).read_to_end(&mut lines).unwrap();
        let stride = width * channels;
        let mut before = vec![0_u8; stride];
        let mut pixels = Vec::with_capacity(width * height);
        for line in lines.chunks_exact(stride + 1) {
            let mut now = line[1..].to_vec();
            for at in 0..stride {
                let left = if at >= channels { now[at - channels] } else { 0 };
                let corner = if at >= channels { before[at - channels] } else { 0 };
                now[at] = now[at].wrapping_add(predicted(line[0], left, before[at], corner));
            }
            pixels.extend(now.chunks_exact(channels).map(|pixel| [pixel[0], pixel[1], pixel[2]]));
            before = now;
        }
        assert_eq!(pixels.len(), width * height);
        Picture { width, height, pixels }
    }

    pub fn at(&self, x: usize, y: usize) -> [u8; 3] {
        self.pixels[y * self.width + x]
    }

    /// Where this colour is, line by line: stretches of at least `least` pixels, as (line, from, to).
    pub fn stretches(&self, colour: [u8; 3], least: usize) -> Vec<(usize, usize, usize)> {
        let mut found = Vec::new();
        for y in 0..self.height {
            let mut begun = None;
            for x in 0..=self.width {
                let is_it = x < self.width && self.at(x, y) == colour;
                match (begun, is_it) {
                    (None, true) => begun = Some(x),
                    (Some(from), false) => {
                        if x - from >= least {
                            found.push((y, from, x));
                        }
                        begun = None;
                    }
                    _ => {}
                }
            }
        }
        found
    }

    /// The mean of each cell.
    fn cells(&self) -> Vec<[f64; 3]> {
        let mut cells = Vec::new();
        for top in (0..self.height).step_by(CELL) {
            for left in (0..self.width).step_by(CELL) {
                let (mut sum, mut count) = ([0.0; 3], 0.0);
                for y in top..(top + CELL).min(self.height) {
                    for x in left..(left + CELL).min(self.width) {
                        let pixel = self.at(x, y);
                        (0..3).for_each(|channel| sum[channel] += f64::from(pixel[channel]));
                        count += 1.0;
                    }
                }
                cells.push(sum.map(|sum| sum / count));
            }
        }
        cells
    }

    /// How much two pictures differ: in the mean (of 255), and in which part of their cells clearly.
    pub fn difference(&self, other: &Picture) -> (f64, f64) {
        assert_eq!((self.width, self.height), (other.width, other.height), "pictures of different sizes");
        let (ours, theirs) = (self.cells(), other.cells());
        let apart = |(a, b): (&[f64; 3], &[f64; 3])| (0..3).map(|c| (a[c] - b[c]).abs()).sum::<f64>() / 3.0;
        let each: Vec<f64> = ours.iter().zip(&theirs).map(apart).collect();
        let mean = each.iter().sum::<f64>() / each.len() as f64;
        (mean, each.iter().filter(|apart| **apart > 24.0).count() as f64 / each.len() as f64)
    }
}

/// What a filtered byte was told as the difference from.
fn predicted(filter: u8, left: u8, above: u8, corner: u8) -> u8 {
    match filter {
        0 => 0,
        1 => left,
        2 => above,
        3 => u16::midpoint(left.into(), above.into()) as u8,
        4 => {
            let [a, b, c] = [left, above, corner].map(i32::from);
            let estimate = a + b - c;
            let [to_a, to_b, to_c] = [a, b, c].map(|side| (estimate - side).abs());
            if to_a <= to_b && to_a <= to_c {
                left
            } else if to_b <= to_c {
                above
            } else {
                corner
            }
        }
        other => panic!("there is no filter {other}"),
    }
}

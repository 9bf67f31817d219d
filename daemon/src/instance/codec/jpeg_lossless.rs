//! Lossless JPEG, process 14 with any predictor (ITU-T T.81 annex H; PS3.5 section 8.2.1), one component.
use super::Frame;
use super::markers::Markers;

/// Codes up to this length are looked up at once; on CT these are nearly all.
const FAST_BITS: u32 = 9;

/// Decodes a frame into one cell a pixel.
pub(super) fn decode(frame: &Frame<'_>) -> Result<Vec<u16>, String> {
    let mut markers = Markers::new(frame.stream);
    if markers.next()? != 0xD8 {
        return Err("no JPEG stream".to_owned());
    }
    let mut tables: [Option<Huffman>; 4] = [const { None }; 4];
    let mut bits = None;
    let mut restart_interval = 0;
    loop {
        let marker = markers.next()?;
        match marker {
            0xC3 => bits = Some(start_of_frame(frame, markers.segment()?)?),
            0xC4 => huffman_tables(markers.segment()?, &mut tables)?,
            0xDD => {
                let segment: Option<&[u8; 2]> = markers.segment()?.first_chunk();
                restart_interval =
                    usize::from(u16::from_be_bytes(*segment.ok_or("a JPEG restart interval is cut off")?));
            }
            0xDA => {
                let bits = bits.ok_or("a JPEG scan comes before its frame")?;
                let scan = Scan::read(markers.segment()?, bits, restart_interval, frame)?;
                let table = tables[scan.table].as_ref().ok_or("a JPEG scan names no Huffman table")?;
                return scan.decode(frame, table, markers.rest());
            }
            // Application data, comments, quantisation tables (of no use here).
            0xE0..=0xEF | 0xFE | 0xDB => {
                markers.segment()?;
            }
            0xC0..=0xCF => return Err(format!("JPEG process {marker:#04X} is not the lossless one")),
            _ => return Err(format!("JPEG marker {marker:#04X} before the image")),
        }
    }
}

/// T.81 section B.2.2; returns the bits a pixel.
fn start_of_frame(frame: &Frame<'_>, segment: &[u8]) -> Result<u32, String> {
    let [bits, y1, y0, x1, x0, components, ..] = *segment else {
        return Err("the JPEG frame header is cut off".to_owned());
    };
    let columns = usize::from(u16::from_be_bytes([x1, x0]));
    let rows = usize::from(u16::from_be_bytes([y1, y0]));
    frame.check(columns, rows, usize::from(components), usize::from(bits))?;
    if bits < 2 {
        return Err(format!("{bits} JPEG bits a pixel"));
    }
    Ok(u32::from(bits))
}

/// T.81 section B.2.4.2. Tables of class 1 (AC) have no use in the lossless process.
fn huffman_tables(mut segment: &[u8], tables: &mut [Option<Huffman>; 4]) -> Result<(), String> {
    while let [id, rest @ ..] = segment {
        let (counts, rest) = rest.split_first_chunk::<16>().ok_or("a Huffman table is cut off")?;
        let total = counts.iter().map(|c| usize::from(*c)).sum();
        let symbols = rest.get(..total).ok_or("a Huffman table is cut off")?;
        segment = &rest[total..];
        if id >> 4 == 0 {
            let table = tables.get_mut(usize::from(*id)).ok_or("a Huffman table has no such number")?;
            *table = Some(Huffman::new(counts, symbols)?);
        }
    }
    Ok(())
}

/// A canonical Huffman code (T.81 annex C).
struct Huffman {
    /// By the next [`FAST_BITS`] bits: length << 8 | symbol; 0 for longer codes.
    fast: [u16; 1 << FAST_BITS],
    /// By length: the first code, how many there are, and the first one's place in `symbols`.
    lengths: [(u32, u32, usize); 17],
    symbols: Vec<u8>,
}

impl Huffman {
    fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, String> {
        let mut fast = [0; 1 << FAST_BITS];
        let mut lengths = [(0, 0, 0); 17];
        let (mut code, mut place) = (0u32, 0usize);
        for (length, count) in (1u32..=16).zip(counts) {
            let count = u32::from(*count);
            if code + count > 1 << length {
                return Err("a Huffman table has too many codes".to_owned());
            }
            lengths[length as usize] = (code, count, place);
            if length <= FAST_BITS {
                for i in 0..count {
                    let start = ((code + i) << (FAST_BITS - length)) as usize;
                    let entry = (length as u16) << 8 | u16::from(symbols[place + i as usize]);
                    fast[start..start + (1 << (FAST_BITS - length))].fill(entry);
                }
            }
            place += count as usize;
            code = (code + count) << 1;
        }
        Ok(Self { fast, lengths, symbols: symbols.to_vec() })
    }

    /// Symbol and length of the code at the top of `next`, 16 bits.
    fn look_up(&self, next: u32) -> Option<(u32, u32)> {
        let entry = u32::from(self.fast[(next >> (16 - FAST_BITS)) as usize]);
        if entry != 0 {
            return Some((entry & 0xFF, entry >> 8));
        }
        (FAST_BITS + 1..=16).find_map(|length| {
            let (first, count, place) = self.lengths[length as usize];
            let index = (next >> (16 - length)).checked_sub(first).filter(|i| *i < count)?;
            Some((u32::from(self.symbols[place + index as usize]), length))
        })
    }
}

/// Entropy-coded bits (T.81 section F.2.2.5).
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, at the top.
    buffer: u64,
    /// How many of them are the stream's; what follows are zeros.
    count: u32,
}

impl Bits<'_> {
    fn fill(&mut self) {
        while self.count <= 56 {
            let Some(byte) = self.bytes.get(self.at) else { return };
            // A 0xFF in the data is followed by a stuffed zero; anything else after it is a marker.
            if *byte == 0xFF {
                if self.bytes.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.buffer |= u64::from(*byte) << (56 - self.count);
            self.count += 8;
        }
    }

    fn take(&mut self, bits: u32) -> Result<u32, String> {
        if bits > self.count {
            return Err("the JPEG image is cut off".to_owned());
        }
        let value = self.buffer >> (64 - bits);
        self.buffer <<= bits;
        self.count -= bits;
        Ok(value as u32)
    }

    /// A difference (T.81 section H.1.2.2): its category by Huffman code, then its bits.
    fn difference(&mut self, table: &Huffman) -> Result<i32, String> {
        self.fill();
        let next = (self.buffer >> 48) as u32;
        let (category, length) = table.look_up(next).ok_or("a JPEG code is not in its table")?;
        self.take(length)?;
        match category {
            0 => Ok(0),
            1..=15 => {
                let bits = self.take(category)? as i32;
                // Values with a leading zero are the negative ones.
                let negative = bits < 1 << (category - 1);
                Ok(if negative { bits - (1 << category) + 1 } else { bits })
            }
            16 => Ok(32768),
            _ => Err(format!("JPEG difference category {category}")),
        }
    }

    /// Drops the padding bits and passes the restart marker.
    fn restart(&mut self, number: usize) -> Result<(), String> {
        let due = 0xD0 + (number % 8) as u8;
        // Whole bytes that were filled in ahead would lie before the marker: none may be left.
        if self.count >= 8 || self.bytes.get(self.at..self.at + 2) != Some(&[0xFF, due]) {
            return Err(format!("no JPEG restart marker {due:#04X} where one is due"));
        }
        self.at += 2;
        (self.buffer, self.count) = (0, 0);
        Ok(())
    }
}

/// T.81 section B.2.3, with the frame's bits.
struct Scan {
    table: usize,
    predictor: u8,
    point_transform: u32,
    bits: u32,
    /// Rows between restarts; all of them without.
    restart_rows: usize,
}

impl Scan {
    fn read(segment: &[u8], bits: u32, interval: usize, frame: &Frame<'_>) -> Result<Self, String> {
        let [1, _, table, predictor, _, approximation, ..] = *segment else {
            return Err("the JPEG scan header is not one of a single component".to_owned());
        };
        let point_transform = u32::from(approximation & 15);
        if !(1..=7).contains(&predictor) || table >> 4 > 3 || point_transform >= bits {
            return Err(format!("JPEG predictor {predictor}, point transform {point_transform}"));
        }
        // T.81 section H.1.1: a restart interval is a multiple of the row.
        if !interval.is_multiple_of(frame.columns) {
            return Err(format!("a JPEG restart interval of {interval} pixels"));
        }
        let restart_rows = if interval == 0 { frame.rows } else { interval / frame.columns };
        Ok(Self { table: usize::from(table >> 4), predictor, point_transform, bits, restart_rows })
    }

    fn decode(&self, frame: &Frame<'_>, table: &Huffman, data: &[u8]) -> Result<Vec<u16>, String> {
        let mut bits = Bits { bytes: data, at: 0, buffer: 0, count: 0 };
        let columns = frame.columns;
        let mut cells = vec![0u16; frame.pixels()];
        for row in 0..frame.rows {
            let (done, rest) = cells.split_at_mut(row * columns);
            let line = &mut rest[..columns];
            if row % self.restart_rows == 0 {
                if row > 0 {
                    bits.restart(row / self.restart_rows - 1)?;
                }
                // T.81 section H.1.2.1: the first row of an interval is predicted from the left alone.
                let mut left = 1 << (self.bits - self.point_transform - 1);
                for cell in line {
                    *cell = (left + bits.difference(table)?) as u16;
                    left = i32::from(*cell);
                }
            } else {
                let above = &done[(row - 1) * columns..];
                line[0] = (i32::from(above[0]) + bits.difference(table)?) as u16;
                for x in 1..columns {
                    let [ra, rb, rc] = [line[x - 1], above[x], above[x - 1]].map(i32::from);
                    line[x] = (self.predict(ra, rb, rc) + bits.difference(table)?) as u16;
                }
            }
        }
        if self.point_transform > 0 {
            cells.iter_mut().for_each(|cell| *cell <<= self.point_transform);
        }
        Ok(cells)
    }

    /// T.81 table H.1.
    fn predict(&self, ra: i32, rb: i32, rc: i32) -> i32 {
        match self.predictor {
            1 => ra,
            2 => rb,
            3 => rc,
            4 => ra + rb - rc,
            5 => ra + ((rb - rc) >> 1),
            6 => rb + ((ra - rc) >> 1),
            _ => (ra + rb) >> 1,
        }
    }
}

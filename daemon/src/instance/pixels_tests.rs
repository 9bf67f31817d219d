use super::*;
use crate::instance::testing::{Layout, Object, SMALL, expected_hu, slice, write};
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::tags;
use std::path::{Path, PathBuf};
use std::process::Command;

const LAYOUTS: [(&str, Layout); 4] = [
    ("12 bits unsigned", SMALL),
    ("12 bits signed", Layout { bits_stored: 12, signed: true, intercept: "1000", ..SMALL }),
    ("16 bits signed", Layout { bits_stored: 16, signed: true, intercept: "0", ..SMALL }),
    ("16 bits unsigned", Layout { bits_stored: 16, signed: false, intercept: "-8192", ..SMALL }),
];

fn save(object: Object, dir: &Path, transfer_syntax: &str) -> PathBuf {
    let path = dir.join("slice.dcm");
    write(object, transfer_syntax, &path);
    path
}

fn hu_of(path: &Path) -> Result<Vec<f32>, InstanceError> {
    read_pixels(&Instance::read(path)?).map(|slice| slice.hu())
}

/// Runs a tool; `None` where it is not installed, unless `TRIAGED_REQUIRE_PEERS` says that it has to be.
fn run(tool: &str, args: &[&str], files: &[&Path]) -> Option<()> {
    let required = std::env::var_os("TRIAGED_REQUIRE_PEERS").is_some();
    let output = match Command::new(tool).args(args).args(files).output() {
        Ok(output) => output,
        Err(error) if required => panic!("{tool}: {error}"),
        Err(_) => return None,
    };
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

#[test]
fn uncompressed_in_every_layout() {
    let dir = tempfile::tempdir().unwrap();
    for (name, layout) in LAYOUTS {
        for syntax in [EXPLICIT_LITTLE, IMPLICIT_LITTLE] {
            let path = save(slice(layout, "1.2"), dir.path(), syntax);
            assert_eq!(hu_of(&path).unwrap(), expected_hu(layout), "{name} {syntax}");
        }
    }
}

/// The decoders against what DCMTK and GDCM encode: bit for bit.
#[test]
fn compressed_in_every_layout() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("dcmcrle", &[], codec::RLE),
        ("dcmcjpeg", &["+e1"], codec::JPEG_LOSSLESS_SV1),
        ("dcmcjpeg", &["+el", "+sv", "1"], codec::JPEG_LOSSLESS),
        ("dcmcjpeg", &["+el", "+sv", "2"], codec::JPEG_LOSSLESS),
        ("dcmcjpeg", &["+el", "+sv", "3"], codec::JPEG_LOSSLESS),
        ("dcmcjpeg", &["+el", "+sv", "4"], codec::JPEG_LOSSLESS),
        ("dcmcjpeg", &["+el", "+sv", "5"], codec::JPEG_LOSSLESS),
        ("dcmcjpeg", &["+el", "+sv", "6"], codec::JPEG_LOSSLESS),
        ("dcmcjpeg", &["+el", "+sv", "7"], codec::JPEG_LOSSLESS),
        // Fragments of 1 KiB: a frame in several.
        ("dcmcjpeg", &["+e1", "+fs", "1"], codec::JPEG_LOSSLESS_SV1),
        ("dcmcjpls", &[], codec::JPEG_LS_LOSSLESS),
        // Thresholds and reset interval of its own.
        ("dcmcjpls", &["+t1", "5", "+t2", "9", "+t3", "40", "+rs", "32"], codec::JPEG_LS_LOSSLESS),
        ("gdcmconv", &["--rle"], codec::RLE),
        ("gdcmconv", &["--jpeg"], codec::JPEG_LOSSLESS_SV1),
        #[cfg(feature = "jpeg-2000")]
        ("gdcmconv", &["--j2k"], codec::JPEG_2000_LOSSLESS),
        ("gdcmconv", &["--jpegls"], codec::JPEG_LS_LOSSLESS),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (tool, args, syntax) in cases {
        for (name, layout) in LAYOUTS {
            let raw = save(slice(layout, "1.2"), dir.path(), EXPLICIT_LITTLE);
            let compressed = dir.path().join("compressed.dcm");
            if run(tool, args, &[&raw, &compressed]).is_none() {
                println!("skipped: no {tool}");
                break;
            }
            let instance = Instance::read(&compressed).unwrap();
            assert_eq!(instance.transfer_syntax, *syntax, "{tool} {args:?}");
            let hu = read_pixels(&instance).unwrap_or_else(|e| panic!("{tool} {args:?} {name}: {e}")).hu();
            assert_eq!(hu, expected_hu(layout), "{tool} {args:?} {name}");
        }
    }
}

#[test]
fn bits_outside_of_the_stored_ones_are_ignored() {
    // Overlay bits above, and pixels that start at bit 2.
    for (shift, high_bit, signed) in [(0, 11, false), (0, 11, true), (2, 13, false), (2, 13, true)] {
        let intercept = if signed { "1000" } else { "-1024" };
        let layout = Layout { signed, intercept, ..SMALL };
        let mut object = slice(layout, "1.2");
        let cells = object.element(tags::PIXEL_DATA).unwrap().to_multi_int::<u16>().unwrap();
        let cells: Vec<u16> =
            cells.iter().map(|c| (c & 0xFFF) << shift | 0x4000 | (1 << shift) >> 1).collect();
        object.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(cells.into())));
        object.put(DataElement::new(tags::HIGH_BIT, VR::US, PrimitiveValue::from(high_bit as u16)));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(hu_of(&save(object, dir.path(), EXPLICIT_LITTLE)).unwrap(), expected_hu(layout));
    }
}

#[test]
fn padding_is_air() {
    let layout = LAYOUTS[2].1;
    let mut object = slice(layout, "1.2");
    // The first pixel has −100 HU; so does the padding.
    object.put(DataElement::new(tags::PIXEL_PADDING_VALUE, VR::SS, PrimitiveValue::from(-100i16)));
    let dir = tempfile::tempdir().unwrap();
    let hu = hu_of(&save(object, dir.path(), EXPLICIT_LITTLE)).unwrap();
    let want: Vec<f32> =
        expected_hu(layout).iter().map(|v| if *v == -100.0 { -1024.0 } else { *v }).collect();
    assert_eq!((hu[0], &hu), (-1024.0, &want));
}

#[test]
fn what_can_not_be_read_says_why() {
    let cases: &[(Tag, VR, Option<PrimitiveValue>, &str)] = &[
        (tags::RESCALE_SLOPE, VR::DS, None, "no Rescale Slope"),
        (tags::RESCALE_INTERCEPT, VR::DS, Some("".into()), "Rescale Intercept"),
        (tags::RESCALE_SLOPE, VR::DS, Some("0".into()), "Rescale Slope of 0"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, Some("MONOCHROME1".into()), "MONOCHROME1"),
        (tags::SAMPLES_PER_PIXEL, VR::US, Some(3u16.into()), "3 samples"),
        (tags::BITS_ALLOCATED, VR::US, Some(32u16.into()), "Bits Allocated"),
        (tags::BITS_STORED, VR::US, Some(17u16.into()), "17 bits stored"),
        (tags::BITS_STORED, VR::US, Some(0u16.into()), "0 bits stored"),
        (tags::PIXEL_REPRESENTATION, VR::US, None, "Pixel Representation"),
        (tags::ROWS, VR::US, Some(5000u16.into()), "5000 × 33"),
        (tags::ROWS, VR::US, None, "0 × 33"),
        (tags::ROWS, VR::US, Some(25u16.into()), "1584 bytes of pixels, 25 × 33 needs 1650"),
        (tags::PIXEL_DATA, VR::OW, None, "no pixel data"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (tag, vr, value, want) in cases {
        let mut object = slice(SMALL, "1.2");
        match value {
            Some(value) => object.put(DataElement::new(*tag, *vr, value.clone())),
            None => object.take(*tag),
        };
        let path = save(object, dir.path(), EXPLICIT_LITTLE);
        let error = hu_of(&path).unwrap_err().to_string();
        assert!(error.contains(want) && error.contains("slice.dcm"), "{want}: {error}");
    }
}

fn small(stream: &[u8], rows: usize) -> codec::Frame<'_> {
    codec::Frame { rows, columns: 33, bytes: 2, signed: false, stream }
}

/// Near-lossless JPEG-LS loses the same in DCMTK's decoder.
#[test]
fn near_lossless_jpeg_ls_as_dcmtk_decodes_it() {
    let dir = tempfile::tempdir().unwrap();
    let [compressed, decoded] = ["compressed.dcm", "decoded.dcm"].map(|name| dir.path().join(name));
    for (name, layout) in LAYOUTS.into_iter().filter(|(_, layout)| !layout.signed) {
        for deviation in ["1", "3", "10"] {
            let raw = save(slice(layout, "1.2"), dir.path(), EXPLICIT_LITTLE);
            if run("dcmcjpls", &["+en", "+md", deviation], &[&raw, &compressed]).is_none() {
                println!("skipped: no dcmcjpls");
                return;
            }
            run("dcmdjpls", &[], &[&compressed, &decoded]).unwrap();
            let hu = hu_of(&compressed).unwrap();
            assert_eq!(hu, hu_of(&decoded).unwrap(), "{name} {deviation}");
            let limit: f32 = deviation.parse().unwrap();
            let worst = hu.iter().zip(expected_hu(layout)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst > 0.0 && worst <= limit, "{name} {deviation}: {worst}");
        }
    }
}

/// Streams that are cut, flipped or of another size than announced: an error or an image, never more memory.
#[test]
fn broken_streams_never_panic() {
    let mut random = crate::instance::scan::tests::Random(42);
    let dir = tempfile::tempdir().unwrap();
    let raw = save(slice(SMALL, "1.2"), dir.path(), EXPLICIT_LITTLE);
    let compressed = dir.path().join("compressed.dcm");
    let tools: &[(&str, &[&str])] = &[
        ("dcmcrle", &[]),
        ("dcmcjpeg", &["+e1"]),
        #[cfg(feature = "jpeg-2000")]
        ("gdcmconv", &["--j2k"]),
        ("dcmcjpls", &[]),
    ];
    for (tool, args) in tools {
        if run(tool, args, &[&raw, &compressed]).is_none() {
            println!("skipped: no {tool}");
            continue;
        }
        let instance = Instance::read(&compressed).unwrap();
        let PixelLocation::Encapsulated { fragments } = &instance.location else { panic!("not compressed") };
        let (offset, length) = fragments[0];
        let stream = std::fs::read(&compressed).unwrap()[offset..offset + length].to_vec();
        let decode = |bytes: &[u8]| codec::decode(&instance.transfer_syntax, &small(bytes, 24));
        let whole = decode(&stream).unwrap();
        for end in 0..stream.len() * 9 / 10 {
            assert!(decode(&stream[..end]).is_err(), "{tool}: cut at {end} of {length}");
        }
        let mut refused = 0;
        for _ in 0..2000 {
            let mut bytes = stream.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.below(256) as u8;
            }
            match decode(&bytes) {
                Ok(cells) => assert_eq!(cells.len(), whole.len()),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 50, "{tool}: {refused}");
        let error = codec::decode(&instance.transfer_syntax, &small(&stream, 25));
        assert!(error.is_err(), "{tool}");
    }
}

/// T.81 section H.1.1: restart intervals and the point transform, which no tool at hand writes.
#[test]
fn lossless_jpeg_with_restarts_and_point_transform() {
    // One Huffman code of two bits each for the categories 0, 1 and 2; 4 × 3 pixels of 8 bits, predictor 2, a restart
    // after each second row, point transform 1: the first pixel of an interval is predicted as 2^(8-1-1) = 64.
    let mut stream: Vec<u8> = vec![0xFF, 0xD8, 0xFF, 0xC3, 0, 11, 8, 0, 3, 0, 4, 1, 1, 0x11, 0];
    stream.extend([0xFF, 0xC4, 0, 22, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
    stream.extend([0xFF, 0xDD, 0, 4, 0, 8, 0xFF, 0xDA, 0, 8, 1, 1, 0, 2, 0, 1]);
    // Differences: row 0: 0 0 +1 -1, row 1 (from above): +2 0 0 0. Codes 00, 01 and 10.
    //   00 00 01|1 01|0  10|10 00 00 00 -> 0000 0110 1010 1000 0000 (padded with ones)
    stream.extend([0b0000_0110, 0b1010_1000, 0b0000_1111, 0xFF, 0xD0]);
    // Row 2 starts anew: -1 0 0 0 -> 010 00 00 00
    stream.extend([0b0100_0000, 0b0111_1111, 0xFF, 0xD9]);
    let frame = codec::Frame { rows: 3, columns: 4, bytes: 1, signed: false, stream: &stream };
    let cells = codec::decode(codec::JPEG_LOSSLESS, &frame).unwrap();
    let halves = [64, 64, 65, 64, 66, 64, 65, 64, 63, 63, 63, 63];
    assert_eq!(cells, halves.map(|h| 2 * h));
}

const RECOMPRESS: &[(&str, &[&str])] = &[
    ("dcmcrle", &[]),
    ("dcmcjpls", &[]),
    ("dcmcjpeg", &["+el", "+sv", "6"]),
    #[cfg(feature = "jpeg-2000")]
    ("gdcmconv", &["--j2k"]),
];

/// Slices as a scanner wrote them: DCMTK decompresses the same files, and compresses them otherwise.
#[test]
fn real_slices_as_dcmtk_decodes_them() {
    let data = std::env::var_os("TRIAGED_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let Ok(folder) = std::fs::read_dir(data.join("ct/covid-p001")) else {
        println!("skipped: no covid-p001");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let [raw, compressed] = ["raw.dcm", "compressed.dcm"].map(|name| dir.path().join(name));
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().step_by(16) {
        let hu = hu_of(path).unwrap();
        assert_eq!(hu.len(), 512 * 512);
        if run("dcmdjpeg", &[], &[path, &raw]).is_none() {
            println!("skipped: no dcmdjpeg");
            return;
        }
        assert!(hu == hu_of(&raw).unwrap(), "{}", path.display());
        for (tool, args) in RECOMPRESS {
            match run(tool, args, &[&raw, &compressed]) {
                Some(()) => assert!(hu == hu_of(&compressed).unwrap(), "{tool} {args:?} {}", path.display()),
                None => println!("skipped: no {tool}"),
            }
        }
    }
}

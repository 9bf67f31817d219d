// Written by `cargo xtask cubins`; not to be edited. Included by `src/device/cubins.rs`; ascending.
{
    /// An ELF image is read in place, in words.
    #[repr(C, align(64))]
    struct Aligned<Bytes: ?Sized>(Bytes);
    const SM_52: &Aligned<[u8]> = &Aligned(*include_bytes!("sm_52.cubin"));
    const SM_70: &Aligned<[u8]> = &Aligned(*include_bytes!("sm_70.cubin"));
    const SM_72: &Aligned<[u8]> = &Aligned(*include_bytes!("sm_72.cubin"));
    const SM_75: &Aligned<[u8]> = &Aligned(*include_bytes!("sm_75.cubin"));
    const SM_80: &Aligned<[u8]> = &Aligned(*include_bytes!("sm_80.cubin"));
    const SM_86: &Aligned<[u8]> = &Aligned(*include_bytes!("sm_86.cubin"));
    const SM_87: &Aligned<[u8]> = &Aligned(*include_bytes!("sm_87.cubin"));
    const SM_89: &Aligned<[u8]> = &Aligned(*include_bytes!("sm_89.cubin"));
    const SM_90: &Aligned<[u8]> = &Aligned(*include_bytes!("sm_90.cubin"));
    const SM_110: &Aligned<[u8]> = &Aligned(*include_bytes!("sm_110.cubin"));
    &[
        Cubin { architecture: (5, 2), image: &SM_52.0 },
        Cubin { architecture: (7, 0), image: &SM_70.0 },
        Cubin { architecture: (7, 2), image: &SM_72.0 },
        Cubin { architecture: (7, 5), image: &SM_75.0 },
        Cubin { architecture: (8, 0), image: &SM_80.0 },
        Cubin { architecture: (8, 6), image: &SM_86.0 },
        Cubin { architecture: (8, 7), image: &SM_87.0 },
        Cubin { architecture: (8, 9), image: &SM_89.0 },
        Cubin { architecture: (9, 0), image: &SM_90.0 },
        Cubin { architecture: (11, 0), image: &SM_110.0 },
    ]
}

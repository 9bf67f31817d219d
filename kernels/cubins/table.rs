// Written by `cargo xtask cubins`; not to be edited. Included by `src/device/cubins.rs`; ascending.
&[
    Cubin { architecture: (5, 2), cuda: (11, 8), image: include_bytes!("sm_52.cubin.gz") },
    Cubin { architecture: (7, 0), cuda: (11, 8), image: include_bytes!("sm_70.cubin.gz") },
    Cubin { architecture: (7, 2), cuda: (11, 8), image: include_bytes!("sm_72.cubin.gz") },
    Cubin { architecture: (7, 5), cuda: (11, 8), image: include_bytes!("sm_75.cubin.gz") },
    Cubin { architecture: (8, 0), cuda: (11, 8), image: include_bytes!("sm_80.cubin.gz") },
    Cubin { architecture: (8, 6), cuda: (11, 8), image: include_bytes!("sm_86.cubin.gz") },
    Cubin { architecture: (8, 7), cuda: (11, 8), image: include_bytes!("sm_87.cubin.gz") },
    Cubin { architecture: (8, 9), cuda: (12, 9), image: include_bytes!("sm_89.cubin.gz") },
    Cubin { architecture: (9, 0), cuda: (12, 9), image: include_bytes!("sm_90.cubin.gz") },
    Cubin { architecture: (11, 0), cuda: (13, 0), image: include_bytes!("sm_110.cubin.gz") },
]

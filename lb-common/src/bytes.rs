//! Fixed-width fields out of a header that was read as one array. Offsets are checked when
//! the code is compiled.

/// The `M` bytes from `AT` on.
#[inline(always)]
pub fn field<const AT: usize, const M: usize, const N: usize>(header: &[u8; N]) -> [u8; M] {
    const { assert!(AT + M <= N, "the field is inside the header") };
    let mut out = [0; M];
    out.copy_from_slice(&header[AT..AT + M]);
    out
}

/// One byte.
#[inline(always)]
pub fn u8_at<const AT: usize, const N: usize>(header: &[u8; N]) -> u8 {
    let [byte] = field::<AT, 1, N>(header);
    byte
}

/// Two bytes in network order, as a number.
#[inline(always)]
pub fn be16_at<const AT: usize, const N: usize>(header: &[u8; N]) -> u16 {
    u16::from_be_bytes(field::<AT, 2, N>(header))
}

/// Puts `bytes` from `AT` on.
#[inline(always)]
pub fn put<const AT: usize, const M: usize, const N: usize>(header: &mut [u8; N], bytes: [u8; M]) {
    const { assert!(AT + M <= N, "the field is inside the header") };
    header[AT..AT + M].copy_from_slice(&bytes);
}

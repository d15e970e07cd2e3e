//! The Internet checksum (RFC 1071), and its incremental update (RFC 1624).

/// Folds the carries of a sum of 16-bit words back in.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field after one word of what it covers changed from `old` to `new`:
/// `HC' = ~(~HC + ~m + m')`, RFC 1624 equation 3.
#[inline(always)]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u32 + !old as u32 + new as u32)
}

/// Sum of an array's 16-bit words, not folded. For an even `N` of at most 64 KiB.
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut total = 0;
    let mut at = 0;
    while at + 1 < N {
        total += (bytes[at] as u32) << 8 | bytes[at + 1] as u32;
        at += 2;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1624_keeps_its_carry() {
        // Section 4: with equation 3 the result is 0000, not ffff.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn an_update_equals_a_new_sum() {
        for (old, new) in [(0x0800, 0), (0x8000, 0x8100), (0, 0xffff), (0xffff, 0), (7, 7)] {
            for rest in [0_u16, 1, 0x1234, 0xfff7, 0xfff8, 0xffff] {
                let before = !fold(u32::from(old) + u32::from(rest));
                let after = !fold(u32::from(new) + u32::from(rest));
                let updated = update(before, old, new);
                // Zero has two forms in one's complement: both verify.
                assert!(updated == after || updated ^ after == 0xffff, "{old:x} {new:x} {rest:x}");
            }
        }
    }

    #[test]
    fn words_are_summed_in_network_order() {
        assert_eq!(sum(&[0x12, 0x34, 0xff, 0xff]), 0x1234 + 0xffff);
    }
}

//! Exact sums of Float64 and 64-bit integers: the result does not depend on the order of the values.
//!
//! Every finite Float64 is an integer times 2^-1074, so a sum of them is an integer too. It is kept in limbs of 32
//! bits, each in 64 so that carries can wait, and rounded once, to nearest and even. Not-a-number and infinities are
//! counted apart; the sum of both infinities is not a number, as in IEEE 754.

/// Bits of a limb that hold the number; the rest holds carries that wait.
const LIMB_BITS: usize = 32;
/// 2098 bits reach the largest Float64, the rest is headroom for 2^64 values and the sign.
const LIMBS: usize = 69;
/// Position of the bit of value 1.
const ONE: usize = 1074;
/// Additions after which carries must be passed on: each adds less than 2^32 to a limb of 63 bits.
const MAX_PENDING: u32 = 1 << 30;
const MASK: i64 = (1 << LIMB_BITS) - 1;
/// Bits of a Float64's significand, the leading one included.
const SIGNIFICAND: usize = 53;

/// A sum in the making.
#[derive(Clone, Debug, Default)]
pub struct ExactSum {
    /// Empty until the first value: groups without values cost nothing.
    limbs: Vec<i64>,
    pending: u32,
    count: i64,
    nans: i64,
    infinities: i64,
    negative_infinities: i64,
}

impl ExactSum {
    /// Number of values added and not taken back.
    pub fn count(&self) -> i64 {
        self.count
    }

    pub fn add(&mut self, x: f64) {
        self.add_float(x, 1);
    }

    /// Takes a value back that was added before.
    pub fn remove(&mut self, x: f64) {
        self.add_float(x, -1);
    }

    pub fn add_int(&mut self, x: i128) {
        self.add_integer(x, 1);
    }

    pub fn remove_int(&mut self, x: i128) {
        self.add_integer(x, -1);
    }

    fn add_float(&mut self, x: f64, times: i64) {
        self.count += times;
        if x.is_nan() {
            self.nans += times;
        } else if x == f64::INFINITY {
            self.infinities += times;
        } else if x == f64::NEG_INFINITY {
            self.negative_infinities += times;
        } else {
            let bits = x.to_bits();
            let exponent = ((bits >> 52) & 0x7ff) as usize;
            let fraction = bits & ((1 << 52) - 1);
            let (significand, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | (1 << 52), exponent - 1) };
            self.add_scaled(significand, shift, x.is_sign_negative() != (times < 0));
        }
    }

    /// `x` must fit 64 bits and a sign: it comes from an Int64 or UInt64 column.
    fn add_integer(&mut self, x: i128, times: i64) {
        self.count += times;
        self.add_scaled(x.unsigned_abs() as u64, ONE, (x < 0) != (times < 0));
    }

    fn add_scaled(&mut self, value: u64, shift: usize, negative: bool) {
        if value == 0 {
            return;
        }
        if self.limbs.is_empty() {
            self.limbs = vec![0; LIMBS];
        }
        let first = shift / LIMB_BITS;
        let wide = u128::from(value) << (shift % LIMB_BITS);
        for (k, limb) in self.limbs[first..first + 3].iter_mut().enumerate() {
            let part = i64::from((wide >> (LIMB_BITS * k)) as u32);
            *limb += if negative { -part } else { part };
        }
        self.wait();
    }

    fn wait(&mut self) {
        self.pending += 1;
        if self.pending >= MAX_PENDING {
            self.carry();
        }
    }

    /// Brings every limb but the last, which has the sign, into 0..2^32.
    fn carry(&mut self) {
        self.pending = 0;
        let mut carry = 0;
        let last = self.limbs.len().saturating_sub(1);
        for (i, limb) in self.limbs.iter_mut().enumerate() {
            let with = *limb + carry;
            if i < last {
                *limb = with & MASK;
                carry = with >> LIMB_BITS;
            } else {
                *limb = with;
            }
        }
    }

    /// Adds the values of another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        let mut other = other.clone();
        other.carry();
        self.count += other.count;
        self.nans += other.nans;
        self.infinities += other.infinities;
        self.negative_infinities += other.negative_infinities;
        if self.limbs.is_empty() {
            self.limbs = other.limbs;
            return;
        }
        for (a, b) in self.limbs.iter_mut().zip(&other.limbs) {
            *a += b;
        }
        self.wait();
    }

    /// The sum, rounded to nearest, ties to even. 0 without values.
    pub fn value(&self) -> f64 {
        if self.nans > 0 || (self.infinities > 0 && self.negative_infinities > 0) {
            return f64::NAN;
        }
        if self.infinities > 0 {
            return f64::INFINITY;
        }
        if self.negative_infinities > 0 {
            return f64::NEG_INFINITY;
        }
        let mut sum = self.clone();
        sum.carry();
        let negative = sum.limbs.last().is_some_and(|&l| l < 0);
        if negative {
            for limb in &mut sum.limbs {
                *limb = -*limb;
            }
            sum.carry();
        }
        let magnitude = rounded(&sum.limbs);
        if negative { -magnitude } else { magnitude }
    }

    /// The exact sum over the number of values; `None` without values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.value() / self.count as f64)
    }

    /// As bytes, for partial states that travel between partitions and machines.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut sum = self.clone();
        sum.carry();
        let first = sum.limbs.iter().position(|&l| l != 0).unwrap_or(0);
        let end = sum.limbs.iter().rposition(|&l| l != 0).map_or(first, |i| i + 1);
        let head = [sum.count, sum.nans, sum.infinities, sum.negative_infinities, first as i64];
        head.iter().chain(sum.limbs.get(first..end).unwrap_or(&[])).flat_map(|v| v.to_le_bytes()).collect()
    }

    /// The inverse of [`ExactSum::to_bytes`]; `None` if these are not such bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<ExactSum> {
        let (words, rest) = bytes.as_chunks::<8>();
        let words: Vec<i64> = words.iter().map(|w| i64::from_le_bytes(*w)).collect();
        let [count, nans, infinities, negative_infinities, first, limbs @ ..] = words.as_slice() else { return None };
        let first = usize::try_from(*first).ok()?;
        if !rest.is_empty() || first + limbs.len() > LIMBS {
            return None;
        }
        let mut all = Vec::new();
        if !limbs.is_empty() {
            all = vec![0; LIMBS];
            all[first..first + limbs.len()].copy_from_slice(limbs);
        }
        Some(ExactSum {
            limbs: all,
            pending: 0,
            count: *count,
            nans: *nans,
            infinities: *infinities,
            negative_infinities: *negative_infinities,
        })
    }

    /// Bytes on the heap.
    pub fn heap_size(&self) -> usize {
        self.limbs.capacity() * size_of::<i64>()
    }
}

/// A carried, non-negative number of units of 2^-1074 as Float64.
fn rounded(limbs: &[i64]) -> f64 {
    let Some(top) = limbs.iter().rposition(|&l| l != 0) else { return 0.0 };
    let highest = LIMB_BITS * top + limbs[top].ilog2() as usize;
    let bits_from = |low: usize| -> u64 {
        let mut wide = 0u128;
        for (k, &limb) in limbs.iter().skip(low / LIMB_BITS).take(3).enumerate() {
            wide |= (limb as u128) << (LIMB_BITS * k);
        }
        (wide >> (low % LIMB_BITS)) as u64 & ((1 << SIGNIFICAND) - 1)
    };
    if highest < SIGNIFICAND {
        // Small enough to be its own bit pattern, subnormals included.
        return f64::from_bits(bits_from(0));
    }
    let low = highest + 1 - SIGNIFICAND;
    let mut significand = bits_from(low);
    let half = bits_from(low - 1) & 1 == 1;
    let below = low - 1;
    let sticky = limbs[..below / LIMB_BITS].iter().any(|&l| l != 0)
        || limbs[below / LIMB_BITS] & ((1 << (below % LIMB_BITS)) - 1) != 0;
    if half && (sticky || significand & 1 == 1) {
        significand += 1;
    }
    // The leading one of the significand adds itself to the exponent; a carry out of the rounding likewise.
    let bits = ((low as u64) << 52) + significand;
    if bits >> 52 >= 0x7ff { f64::INFINITY } else { f64::from_bits(bits) }
}

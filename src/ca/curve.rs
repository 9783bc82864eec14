//! Whether a secret belongs to a public point on P-224, P-384 and P-521, which only a CA
//! that somebody else made is on. Pure.

use p256::elliptic_curve::bigint::U576;
use p256::elliptic_curve::bigint::modular::{FixedMontyForm, FixedMontyParams};
use zeroize::Zeroizing;

use super::Curve;

/// Wide enough for P-521, the largest.
type Field = FixedMontyForm<{ U576::LIMBS }>;

/// y² = x³ − 3x + b over the integers modulo p, with a base point of prime order n
/// (NIST SP 800-186, 3.2.1).
struct Domain {
    p: U576,
    b: U576,
    base_x: U576,
    base_y: U576,
    n: U576,
}

/// The number these lower-case digits write.
const fn hexadecimal(digits: &str) -> U576 {
    let mut digits = digits.as_bytes();
    let mut number = U576::ZERO;
    while let [digit, rest @ ..] = digits {
        let value = match *digit {
            b'0'..=b'9' => *digit - b'0',
            letter => letter - b'a' + 10,
        };
        number = number.shl_vartime(4).bitor(&U576::from_u8(value));
        digits = rest;
    }
    number
}

const P224: Domain = Domain {
    p: hexadecimal("ffffffffffffffffffffffffffffffff000000000000000000000001"),
    b: hexadecimal("b4050a850c04b3abf54132565044b0b7d7bfd8ba270b39432355ffb4"),
    base_x: hexadecimal("b70e0cbd6bb4bf7f321390b94a03c1d356c21122343280d6115c1d21"),
    base_y: hexadecimal("bd376388b5f723fb4c22dfe6cd4375a05a07476444d5819985007e34"),
    n: hexadecimal("ffffffffffffffffffffffffffff16a2e0b8f03e13dd29455c5c2a3d"),
};

const P384: Domain = Domain {
    p: hexadecimal(
        "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe\
        ffffffff0000000000000000ffffffff",
    ),
    b: hexadecimal(
        "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875a\
        c656398d8a2ed19d2a85c8edd3ec2aef",
    ),
    base_x: hexadecimal(
        "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a38\
             5502f25dbf55296c3a545e3872760ab7",
    ),
    base_y: hexadecimal(
        "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c0\
             0a60b1ce1d7e819d7a431d7c90ea0e5f",
    ),
    n: hexadecimal(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf\
        581a0db248b0a77aecec196accc52973",
    ),
};

const P521: Domain = Domain {
    p: hexadecimal(
        "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
        ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    ),
    b: hexadecimal(
        "0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109\
        e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
    ),
    base_x: hexadecimal(
        "00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3d\
             baa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66",
    ),
    base_y: hexadecimal(
        "011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e66\
             2c97ee72995ef42640c550b9013fad0761353c7086a272c24088be94769fd16650",
    ),
    n: hexadecimal(
        "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa\
        51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
    ),
};

/// Whether the uncompressed `point` is the one Go would derive from `secret`. `None` where
/// the secret is not in 1..n, or the curve is P-256: that one is `p256`'s.
///
/// The time this takes depends on the secret. It runs once for each start, on a key that
/// its owner's own tools made, and answers nobody who could ask again.
pub(super) fn is_public_point_of(curve: Curve, secret: &[u8], point: &[u8]) -> Option<bool> {
    let domain = match curve {
        Curve::P224 => &P224,
        Curve::P384 => &P384,
        Curve::P521 => &P521,
        Curve::P256 => return None,
    };
    let number = Zeroizing::new(from_bytes(secret)?);
    if *number == U576::ZERO || *number >= domain.n {
        return None;
    }
    let modulus = FixedMontyParams::new_vartime(domain.p.to_odd().into_option()?);
    let field = |number: &U576| Field::new(number, &modulus);

    let [0x04, coordinates @ ..] = point else {
        return Some(false);
    };
    let (x, y) = coordinates.split_at(coordinates.len() / 2);
    let (x, y) = (from_bytes(x)?, from_bytes(y)?);
    if x >= domain.p || y >= domain.p {
        return Some(false);
    }

    let b = field(&domain.b);
    let base = Point {
        x: field(&domain.base_x),
        y: field(&domain.base_y),
        z: Field::one(&modulus),
    };
    let mut sum = Point {
        x: Field::zero(&modulus),
        y: Field::one(&modulus),
        z: Field::zero(&modulus),
    };
    for bit in secret
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1))
    {
        sum = sum.add(&sum, &b);
        if bit == 1 {
            sum = sum.add(&base, &b);
        }
    }
    // x = X/Z and y = Y/Z, without a division.
    Some(field(&x) * sum.z == sum.x && field(&y) * sum.z == sum.y)
}

/// A big-endian number; `None` if it is wider than any curve.
fn from_bytes(bytes: &[u8]) -> Option<U576> {
    let mut wide = Zeroizing::new([0; U576::BYTES]);
    let start = wide.len().checked_sub(bytes.len())?;
    wide.get_mut(start..)?.copy_from_slice(bytes);
    Some(U576::from_be_slice(&*wide))
}

/// Projective coordinates.
struct Point {
    x: Field,
    y: Field,
    z: Field,
}

impl Point {
    /// The complete addition for a = −3, right for every pair of points, equal ones too
    /// (Renes, Costello, Batina 2015, algorithm 4, where each step has its number).
    fn add(&self, other: &Self, b: &Field) -> Self {
        let xx = self.x * other.x;
        let yy = self.y * other.y;
        let zz = self.z * other.z;
        // 4 to 18: the mixed products by Karatsuba.
        let xy = (self.x + self.y) * (other.x + other.y) - xx - yy;
        let yz = (self.y + self.z) * (other.y + other.z) - yy - zz;
        let xz = (self.x + self.z) * (other.x + other.z) - xx - zz;
        // 19 to 24.
        let difference = xz - *b * zz;
        let difference = difference + difference + difference;
        let (minus, plus) = (yy - difference, yy + difference);
        // 25 to 34.
        let three_zz = zz + zz + zz;
        let mixed = *b * xz - three_zz - xx;
        let mixed = mixed + mixed + mixed;
        let slope = xx + xx + xx - three_zz;
        // 35 to 43.
        Self {
            x: xy * plus - yz * mixed,
            y: plus * minus + slope * mixed,
            z: yz * minus + xy * slope,
        }
    }
}

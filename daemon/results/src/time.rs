//! A moment as DICOM writes it. It never reads a clock and knows no time zones: the caller gives the offset.

/// Local date and time of the appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DateTime {
    /// Year, 0 to 9999.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, 1 to 31.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Second, 0 to 59.
    pub second: u8,
}

/// Seconds of a day.
const DAY_S: i64 = 86_400;
/// Days of a whole cycle of the Gregorian calendar, 400 years.
const CYCLE_DAYS: i64 = 146_097;
/// From 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

impl DateTime {
    /// The moment `unix_s` seconds after 1970-01-01 00:00 UTC, on a clock that is `utc_offset_s` ahead of UTC.
    ///
    /// Moments outside of the years 0 to 9999, which DICOM can't write, become the nearest of them.
    pub fn from_unix(unix_s: i64, utc_offset_s: i32) -> Self {
        let local_s = unix_s.saturating_add(i64::from(utc_offset_s)).clamp(-62_167_219_200, 253_402_300_799);
        let (days, second_of_day) = (local_s.div_euclid(DAY_S), local_s.rem_euclid(DAY_S));
        // Years that begin in March put the leap day last, so that months have fixed offsets.
        let day = days + EPOCH_DAYS;
        let (cycle, day) = (day.div_euclid(CYCLE_DAYS), day.rem_euclid(CYCLE_DAYS));
        let year = (day - day / 1460 + day / 36_524 - day / (CYCLE_DAYS - 1)) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let march_month = (5 * day + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: (cycle * 400 + year + i64::from(month <= 2)) as u16,
            month: month as u8,
            day: (day - (153 * march_month + 2) / 5 + 1) as u8,
            hour: (second_of_day / 3600) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            second: (second_of_day % 60) as u8,
        }
    }

    /// The date as a DA value (PS3.5 section 6.2): `YYYYMMDD`.
    pub fn da(&self) -> String {
        format!("{:04}{:02}{:02}", self.year, self.month, self.day)
    }

    /// The time as a TM value: `HHMMSS`.
    pub fn tm(&self) -> String {
        format!("{:02}{:02}{:02}", self.hour, self.minute, self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let cases = [
            (0, 0, "19700101", "000000"),
            (-1, 0, "19691231", "235959"),
            (951_782_400, 0, "20000229", "000000"),
            (1_709_164_800, 86_399, "20240229", "235959"),
            (1_709_251_200, 0, "20240301", "000000"),
            (4_107_542_399, 0, "21000228", "235959"),
            (4_107_542_400, 0, "21000301", "000000"),
            (1_795_415_478, 7_200, "20261123", "083118"),
            (i64::MAX, i32::MAX, "99991231", "235959"),
            (i64::MIN, i32::MIN, "00000101", "000000"),
        ];
        for (unix_s, offset_s, da, tm) in cases {
            let when = DateTime::from_unix(unix_s, offset_s);
            assert_eq!((when.da().as_str(), when.tm().as_str()), (da, tm), "{unix_s}");
        }
    }
}

//! The clock that templates see: always handed in, never read.

/// A moment, as `strftime_now` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Date {
    /// The year.
    pub year: i32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 60.
    pub second: u32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
/// Characters of a format: templates use a dozen.
const FORMAT_BYTES_MAX: usize = 4096;

impl Date {
    /// Midnight of a day; `None` if there is no such day.
    pub fn from_ymd(year: i32, month: u32, day: u32) -> Option<Self> {
        let this = Self { year, month, day, hour: 0, minute: 0, second: 0 };
        ((1..=12).contains(&month) && day >= 1 && day <= this.days_in_month(month)).then_some(this)
    }

    /// The moment so many seconds after 1970 began, in UTC.
    pub fn from_unix(seconds: u64) -> Self {
        // Days are counted from 0000-03-01, in eras of 400 years (Howard Hinnant, "chrono-compatible date algorithms").
        let days = (seconds / 86_400).min(10_000_000) as i64 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let of_day = seconds % 86_400;
        Self {
            year: (year_of_era + era * 400 + i64::from(month <= 2)) as i32,
            month: month as u32,
            day: (day_of_year - (153 * shifted + 2) / 5 + 1) as u32,
            hour: (of_day / 3_600) as u32,
            minute: (of_day / 60 % 60) as u32,
            second: (of_day % 60) as u32,
        }
    }

    fn is_leap(self) -> bool {
        self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0)
    }

    fn days_in_month(self, month: u32) -> u32 {
        match month {
            2 if self.is_leap() => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    fn day_of_year(self) -> u32 {
        (1..self.month).map(|month| self.days_in_month(month)).sum::<u32>() + self.day
    }

    /// 0 is Monday.
    fn weekday(self) -> usize {
        let before = i64::from(self.year) - 1;
        let days = before * 365 + before.div_euclid(4) - before.div_euclid(100)
            + before.div_euclid(400)
            + i64::from(self.day_of_year());
        (days - 1).rem_euclid(7) as usize
    }

    /// Prints by C's format; `None` if a directive is unknown.
    pub(crate) fn format(self, format: &str) -> Option<String> {
        if format.len() > FORMAT_BYTES_MAX {
            return None;
        }
        let mut out = String::with_capacity(format.len() * 2);
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next()?;
            let plain = directive == '-';
            if plain {
                directive = chars.next()?;
            }
            let month = MONTHS.get(self.month.checked_sub(1)? as usize)?;
            let day = DAYS.get(self.weekday())?;
            let number = |value: u32, width: usize| {
                if plain { value.to_string() } else { format!("{value:0width$}") }
            };
            let twelve = if self.hour.is_multiple_of(12) { 12 } else { self.hour % 12 };
            let text = match directive {
                'Y' => self.year.to_string(),
                'y' => number(self.year.rem_euclid(100) as u32, 2),
                'm' => number(self.month, 2),
                'd' => number(self.day, 2),
                'e' => format!("{:>2}", self.day),
                'j' => number(self.day_of_year(), 3),
                'B' => (*month).to_owned(),
                'b' | 'h' => month.get(..3)?.to_owned(),
                'A' => (*day).to_owned(),
                'a' => day.get(..3)?.to_owned(),
                'u' => (self.weekday() + 1).to_string(),
                'w' => ((self.weekday() + 1) % 7).to_string(),
                'H' => number(self.hour, 2),
                'I' => number(twelve, 2),
                'M' => number(self.minute, 2),
                'S' => number(self.second, 2),
                'f' => "000000".to_owned(),
                'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
                'F' => self.format("%Y-%m-%d")?,
                'D' | 'x' => self.format("%m/%d/%y")?,
                'T' | 'X' => self.format("%H:%M:%S")?,
                'R' => self.format("%H:%M")?,
                'c' => self.format("%a %b %e %H:%M:%S %Y")?,
                // The moment carries no time zone, as in Python.
                'z' | 'Z' => String::new(),
                'n' => "\n".to_owned(),
                't' => "\t".to_owned(),
                '%' => "%".to_owned(),
                _ => return None,
            };
            out.push_str(&text);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_c_does() {
        let date = Date { hour: 14, minute: 5, second: 9, ..Date::from_ymd(2025, 1, 20).unwrap() };
        for (format, expected) in [
            ("%d %b %Y", "20 Jan 2025"),
            ("%A, %B %-d, %Y", "Monday, January 20, 2025"),
            ("%Y-%m-%dT%H:%M:%S", "2025-01-20T14:05:09"),
            ("%I:%M %p %j %y %% %e %F %a", "02:05 PM 020 25 % 20 2025-01-20 Mon"),
        ] {
            assert_eq!(date.format(format).unwrap(), expected);
        }
        assert_eq!(date.format("%Q"), None);
        assert_eq!(date.format("%"), None);
    }

    #[test]
    fn days_from_the_epoch() {
        assert_eq!(Date::from_unix(0), Date::from_ymd(1970, 1, 1).unwrap());
        assert_eq!(
            Date::from_unix(1_709_210_096),
            Date { year: 2024, month: 2, day: 29, hour: 12, minute: 34, second: 56 }
        );
        assert_eq!(Date::from_ymd(2023, 2, 29), None);
        assert!(Date::from_unix(u64::MAX).format("%c").is_some());
    }
}

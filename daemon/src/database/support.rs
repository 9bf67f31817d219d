//! What a support bundle says of the database, and the words that it must not say.
use super::{Database, DatabaseError};

/// What is counted.
const COUNTS: &[(&str, &str)] = &[
    ("studies by state", "SELECT state, COUNT(*) FROM studies GROUP BY 1 ORDER BY 1"),
    (
        "results by destination and state",
        "SELECT destination || ' ' || kind || ' ' || state, COUNT(*) FROM outbox GROUP BY 1 ORDER BY 1",
    ),
    (
        "audit by event and outcome",
        "SELECT event || ' ' || outcome, COUNT(*) FROM audit GROUP BY 1 ORDER BY 1",
    ),
    ("users by role", "SELECT role, COUNT(*) FROM users GROUP BY 1 ORDER BY 1"),
];

impl Database {
    /// Counts, a line each. It names no patient.
    pub fn counted(&self) -> Result<String, DatabaseError> {
        let connection = self.lock();
        let mut text = format!("schema {}\n", super::schema::version(&connection)?);
        for (what, sql) in COUNTS {
            text += &format!("\n{what}\n");
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map([], |row| {
                Ok(format!("  {}: {}\n", row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
            })?;
            for row in rows {
                text += &row?;
            }
        }
        Ok(text)
    }

    /// Names, IDs, dates of birth and accession numbers of every patient whom the box knows.
    pub fn patients_words(&self) -> Result<Vec<String>, DatabaseError> {
        let connection = self.lock();
        let sql = "SELECT patient_name FROM listing UNION SELECT patient_id FROM listing UNION SELECT birth_date FROM listing
            UNION SELECT accession FROM listing UNION SELECT patient_id FROM audit WHERE patient_id IS NOT NULL";
        let mut statement = connection.prepare(sql)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

//! Status codes of DIMSE responses (PS3.7 annex C, PS3.4 section B.2.3). Owns their classes and words; never decides
//! what to do about one.

use std::fmt;

/// The Status (0000,0900) of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status(pub u16);

impl Status {
    /// The service was performed.
    pub const SUCCESS: Self = Self(0x0000);
    /// The operation goes on: this response is one of several (C-FIND: here is a match).
    pub const PENDING: Self = Self(0xFF00);
    /// Like [`Status::PENDING`], and an optional key of the query was not supported (PS3.4 section C.4.1.1.4).
    pub const PENDING_WITH_WARNING: Self = Self(0xFF01);
    /// The data set names an element that the class does not have (PS3.7 section C.5).
    pub const NO_SUCH_ATTRIBUTE: Self = Self(0x0105);
    /// An element's value is out of range or otherwise wrong.
    pub const INVALID_ATTRIBUTE_VALUE: Self = Self(0x0106);
    /// Some elements of the list were not taken: a warning.
    pub const ATTRIBUTE_LIST_ERROR: Self = Self(0x0107);
    /// A general failure in processing.
    pub const PROCESSING_FAILURE: Self = Self(0x0110);
    /// N-CREATE: the SOP instance is there already.
    pub const DUPLICATE_SOP_INSTANCE: Self = Self(0x0111);
    /// The SOP instance is not known.
    pub const NO_SUCH_SOP_INSTANCE: Self = Self(0x0112);
    /// N-EVENT-REPORT: the event type is not known.
    pub const NO_SUCH_EVENT_TYPE: Self = Self(0x0113);
    /// N-EVENT-REPORT, N-ACTION: a parameter is missing, out of range or otherwise wrong.
    pub const INVALID_ARGUMENT_VALUE: Self = Self(0x0115);
    /// An element's value was out of range, and a default was taken: a warning.
    pub const ATTRIBUTE_VALUE_OUT_OF_RANGE: Self = Self(0x0116);
    /// The SOP instance UID violates the rules of UIDs.
    pub const INVALID_SOP_INSTANCE: Self = Self(0x0117);
    /// The SOP class is not known.
    pub const NO_SUCH_SOP_CLASS: Self = Self(0x0118);
    /// The SOP instance is not one of the SOP class.
    pub const CLASS_INSTANCE_CONFLICT: Self = Self(0x0119);
    /// A required element is missing.
    pub const MISSING_ATTRIBUTE: Self = Self(0x0120);
    /// A required element has no value.
    pub const MISSING_ATTRIBUTE_VALUE: Self = Self(0x0121);
    /// The SOP class is not supported on this association.
    pub const SOP_CLASS_NOT_SUPPORTED: Self = Self(0x0122);
    /// N-ACTION: the action type is not known.
    pub const NO_SUCH_ACTION_TYPE: Self = Self(0x0123);
    /// The requestor was not authorised.
    pub const NOT_AUTHORIZED: Self = Self(0x0124);
    /// The message id is that of an operation that is still going on.
    pub const DUPLICATE_INVOCATION: Self = Self(0x0210);
    /// The operation is not one that was agreed on.
    pub const UNRECOGNIZED_OPERATION: Self = Self(0x0211);
    /// A parameter was not agreed on for this association.
    pub const MISTYPED_ARGUMENT: Self = Self(0x0212);
    /// A resource limitation of the responder.
    pub const RESOURCE_LIMITATION: Self = Self(0x0213);
    /// C-STORE: out of resources; send it again later (PS3.4 table B.2-1).
    pub const OUT_OF_RESOURCES: Self = Self(0xA700);
    /// C-STORE: the data set does not match the SOP class.
    pub const DATASET_MISMATCH: Self = Self(0xA900);
    /// C-STORE: elements were coerced; a warning, the instance is stored.
    pub const COERCED: Self = Self(0xB000);
    /// C-STORE: cannot understand.
    pub const CANNOT_UNDERSTAND: Self = Self(0xC000);
    /// The operation ended by a C-CANCEL.
    pub const CANCEL: Self = Self(0xFE00);

    /// The service was performed, without reservation.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::SUCCESS
    }

    /// The service was performed, with a reservation (PS3.7 section C.3: 0001, Bxxx, 0107, 0116).
    #[must_use]
    pub fn is_warning(self) -> bool {
        matches!(self.0, 0x0001 | 0x0107 | 0x0116 | 0xB000..=0xBFFF)
    }

    /// The service was not performed.
    #[must_use]
    pub fn is_failure(self) -> bool {
        !self.is_success() && !self.is_warning() && !self.is_pending()
    }

    /// More responses to the same request follow.
    #[must_use]
    pub fn is_pending(self) -> bool {
        matches!(self, Self::PENDING | Self::PENDING_WITH_WARNING)
    }

    /// A failure that may pass without anybody changing the request: worth the same request again, later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self.0, 0xA700..=0xA7FF | 0x0110 | 0x0213)
    }

    /// The status in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self.0 {
            0x0000 => "success",
            0x0105 => "no such attribute",
            0x0106 => "invalid attribute value",
            0x0107 => "attribute list error",
            0x0110 => "processing failure",
            0x0111 => "duplicate SOP instance",
            0x0112 => "no such SOP instance",
            0x0113 => "no such event type",
            0x0115 => "invalid argument value",
            0x0116 => "attribute value out of range",
            0x0117 => "invalid SOP instance",
            0x0118 => "no such SOP class",
            0x0119 => "class-instance conflict",
            0x0120 => "missing attribute",
            0x0121 => "missing attribute value",
            0x0122 => "SOP class not supported",
            0x0123 => "no such action type",
            0x0124 => "not authorized",
            0x0210 => "duplicate invocation",
            0x0211 => "unrecognized operation",
            0x0212 => "mistyped argument",
            0x0213 => "resource limitation",
            0xA700..=0xA7FF => "out of resources",
            0xA900..=0xA9FF => "data set does not match SOP class",
            0xB000 => "coercion of data elements",
            0xB006 => "elements discarded",
            0xB007 => "data set does not match SOP class (warning)",
            0xC000..=0xCFFF => "cannot understand",
            0xFE00 => "cancelled",
            0xFF00 | 0xFF01 => "pending",
            _ if self.is_warning() => "warning",
            _ => "failure",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04X} ({})", self.0, self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        // code, success, warning, retryable
        let cases = [
            (0x0000, true, false, false),
            (0xA700, false, false, true),
            (0xA7FF, false, false, true),
            (0xA900, false, false, false),
            (0xB000, false, true, false),
            (0xB007, false, true, false),
            (0xC000, false, false, false),
            (0x0110, false, false, true),
            (0x0122, false, false, false),
            (0x0111, false, false, false),
            (0x0116, false, true, false),
            (0x0124, false, false, false),
            (0xFE00, false, false, false),
        ];
        for (code, success, warning, retryable) in cases {
            let status = Status(code);
            assert_eq!(status.is_success(), success, "{status}");
            assert_eq!(status.is_warning(), warning, "{status}");
            assert_eq!(status.is_failure(), !success && !warning, "{status}");
            assert_eq!(status.is_retryable(), retryable, "{status}");
        }
        for status in [Status::PENDING, Status::PENDING_WITH_WARNING] {
            assert!(status.is_pending() && !status.is_failure() && !status.is_success(), "{status}");
        }
        assert_eq!(Status::OUT_OF_RESOURCES.to_string(), "0xA700 (out of resources)");
    }
}

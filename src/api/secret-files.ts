// What secret files may be called, and how much may be in them (docs/secrets.md). Lengths are in bytes.

/** Of one file. */
export const LONGEST_SECRET_FILE = 64 * 1024
/** Of all files of an instance, in bytes and in number. */
export const MOST_SECRET_FILE_BYTES = 256 * 1024
export const MOST_SECRET_FILES = 128

/** A plain name of a file that is not hidden. */
export const secretFileName = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$/

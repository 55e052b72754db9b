// Package consoletest drives the console in a real browser. It is a module of its own, so that nobody who imports
// the library gets the driver.
//
// The tests need Chromium (Debian's package chromium) and skip without it. With CONSOLE_SCREENSHOTS set to a directory,
// they leave pictures of every page there, at the width of a desk and of a phone, by day and by night.
package consoletest

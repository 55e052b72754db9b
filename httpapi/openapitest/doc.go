// Package openapitest holds the OpenAPI document of package httpapi against what the API does. It is a
// module of its own, so that nobody who imports the library gets the validator.
package openapitest

"""Keys and certificates: authorities, profiles, key stores, revocation, package and metadata signing."""

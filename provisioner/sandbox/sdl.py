"""The part of each server's GraphQL schema that the sandbox has, by dialect and endpoint.

Types and nullability follow the recordings: a refused `apiKeys` makes all of `data` null on core
(`137`) and only its own field on legacy (`127`); a refused `revokeApiKey` makes only its own
field null (core-2.21 `207`). Twenty's schemas have many more fields; the sandbox answers that
they are unknown.
"""

from __future__ import annotations

from typing import assert_never

from provisioner.sandbox.dialect import Dialect

GRAPHQL = "/graphql"
METADATA = "/metadata"

_SCALARS = """
scalar UUID
scalar DateTime
"""

_SIGN_IN = """
type AuthToken { token: String! expiresAt: DateTime! }
type LoginToken { loginToken: AuthToken! }
type AuthTokens { tokens: AuthTokenPair! }
type ApiKeyToken { token: String! }
"""

_CORE = (
    _SCALARS
    + _SIGN_IN
    + """
type AuthTokenPair { accessOrWorkspaceAgnosticToken: AuthToken! refreshToken: AuthToken! }

type ApiKey {
  id: UUID!
  name: String!
  expiresAt: DateTime!
  revokedAt: DateTime
  createdAt: DateTime!
  updatedAt: DateTime!
  role: Role!
}
type ApiKeyForRole { id: UUID! name: String! expiresAt: DateTime! revokedAt: DateTime }
type PermissionFlag { id: UUID! flag: String! }
type ObjectPermission { objectMetadataId: UUID! canReadObjectRecords: Boolean }
type FieldPermission { id: UUID! }
type Role {
  id: UUID!
%(role)s
  label: String!
  description: String
  icon: String
  isEditable: Boolean!
  canBeAssignedToUsers: Boolean!
  canBeAssignedToAgents: Boolean!
  canBeAssignedToApiKeys: Boolean!
  canUpdateAllSettings: Boolean!
  canAccessAllTools: Boolean!
  canReadAllObjectRecords: Boolean!
  canUpdateAllObjectRecords: Boolean!
  canSoftDeleteAllObjectRecords: Boolean!
  canDestroyAllObjectRecords: Boolean!
  permissionFlags: [PermissionFlag!]
  objectPermissions: [ObjectPermission!]
  fieldPermissions: [FieldPermission!]
  apiKeys: [ApiKeyForRole!]!
}

input CreateApiKeyInput { name: String! expiresAt: String! revokedAt: String roleId: UUID! }
input UpdateApiKeyInput { id: UUID! name: String expiresAt: String revokedAt: String }
input RevokeApiKeyInput { id: UUID! }
input GetApiKeyInput { id: UUID! }

type Query {
  apiKeys: [ApiKey!]!
  apiKey(input: GetApiKeyInput!): ApiKey
  getRoles: [Role!]!
}
type Mutation {
  createApiKey(input: CreateApiKeyInput!): ApiKey!
  updateApiKey(input: UpdateApiKeyInput!): ApiKey
  revokeApiKey(input: RevokeApiKeyInput!): ApiKey
  assignRoleToApiKey(apiKeyId: UUID!, roleId: UUID!): Boolean!
  generateApiKeyToken(apiKeyId: UUID!, expiresAt: String!): ApiKeyToken!
  getLoginTokenFromCredentials(email: String!, password: String!, origin: String!): LoginToken!
  getAuthTokensFromLoginToken(loginToken: String!, origin: String!): AuthTokens!
}
"""
)

_CORE_GRAPHQL = """
scalar UUID
"Here 2.21 has the objects of the workspace; the sandbox has none of them."
type Query { _sandbox: Boolean }
type Mutation { _sandbox: Boolean }
"""

_LEGACY_ANONYMOUS = (
    _SCALARS
    + _SIGN_IN
    + """
type AuthTokenPair { accessToken: AuthToken! refreshToken: AuthToken! }
type Role {
  id: UUID!
  label: String!
  description: String
  icon: String
  isEditable: Boolean!
  canUpdateAllSettings: Boolean!
}
type Query { getRoles: [Role!]! }
type Mutation {
  generateApiKeyToken(apiKeyId: String!, expiresAt: String!): ApiKeyToken!
  getLoginTokenFromCredentials(email: String!, password: String!, origin: String!): LoginToken!
  getAuthTokensFromLoginToken(loginToken: String!, origin: String!): AuthTokens!
}
"""
)

_LEGACY_WORKSPACE = (
    _LEGACY_ANONYMOUS
    + """
type ApiKey {
  id: UUID!
  name: String!
  expiresAt: DateTime!
  revokedAt: DateTime
  createdAt: DateTime!
  updatedAt: DateTime!
  deletedAt: DateTime
}
type PageInfo {
  hasNextPage: Boolean!
  hasPreviousPage: Boolean!
  startCursor: String
  endCursor: String
}
type ApiKeyEdge { node: ApiKey! cursor: String! }
type ApiKeyConnection { edges: [ApiKeyEdge!]! pageInfo: PageInfo! totalCount: Int }

input ApiKeyCreateInput {
  id: UUID
  name: String
  expiresAt: DateTime!
  revokedAt: DateTime
}
input ApiKeyUpdateInput { name: String expiresAt: DateTime revokedAt: DateTime }

extend type Query {
  apiKeys(first: Int, last: Int, before: String, after: String): ApiKeyConnection
}
extend type Mutation {
  createApiKey(data: ApiKeyCreateInput!): ApiKey
  createApiKeys(data: [ApiKeyCreateInput!]!): [ApiKey]
  updateApiKey(id: UUID!, data: ApiKeyUpdateInput!): ApiKey
  deleteApiKey(id: UUID!): ApiKey
}
"""
)


def schema_text(dialect: Dialect, path: str, *, anonymous: bool) -> str:
    """Return the SDL of an endpoint for anonymous or authenticated callers.

    `/graphql` on legacy hides the workspace's own objects from anonymous callers (legacy `124`);
    `/graphql` on 2.21 has no API keys (core-2.21 `142`, `902`).
    """
    match dialect:
        case Dialect.LEGACY:
            hidden = anonymous or path == METADATA
            return _LEGACY_ANONYMOUS if hidden else _LEGACY_WORKSPACE
        case Dialect.CORE_1:
            return _CORE % {"role": ""}
        case Dialect.CORE:
            if path == GRAPHQL:
                return _CORE_GRAPHQL
            # `universalIdentifier` exists only on 2.x (core-2.21 `214`).
            return _CORE % {"role": "  universalIdentifier: UUID!"}
        case _:
            assert_never(dialect)

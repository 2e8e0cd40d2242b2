PRAGMA user_version = 0;
BEGIN TRANSACTION;
CREATE TABLE api_key (
    position   INTEGER PRIMARY KEY, -- core lists in the order of creation
    id         TEXT NOT NULL UNIQUE, -- legacy lists in the order of ids
    name       TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    revoked_at TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    deleted_at TEXT,                -- a soft deletion of legacy
    role_id    TEXT                 -- NULL: the key whose role has not arrived
);
INSERT INTO "api_key" VALUES(1,'5a2dd51c-98cc-4a94-a72b-fc75c0c29c92','svc-dated','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95');
INSERT INTO "api_key" VALUES(2,'3e21a9a4-b9f7-471a-a03f-370e0aaaebfe','svc-lost','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95');
INSERT INTO "api_key" VALUES(3,'7bcbb53e-8fa0-40cc-87e6-785927fa7cc0','svc-held','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95');
INSERT INTO "api_key" VALUES(4,'0c1e9140-9b89-49d4-a99a-7c38ba8edb1f','svc-kept','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95');
INSERT INTO "api_key" VALUES(5,'468853a5-edc5-4dc1-a557-aa2aa341ec19','svc-gone','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95');
INSERT INTO "api_key" VALUES(6,'a5ed68c2-1820-4fe3-b419-15953dd6a449','ops-x','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95');
INSERT INTO "api_key" VALUES(7,'957f0d16-7119-457b-b893-e9d10f4feffe','svc-due','2027-03-11T00:00:00.000Z',NULL,'2027-03-01T12:00:00.001Z','2027-03-01T12:00:00.001Z',NULL,'0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95');
INSERT INTO "api_key" VALUES(8,'6dd883c0-dd36-46ab-9126-a18200bd443e','svc-twice','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.001Z','2027-03-01T12:00:00.001Z',NULL,'0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95');
INSERT INTO "api_key" VALUES(9,'4e4d44eb-1ebb-479a-bec3-dcce18d56ad9','svc-twice','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.001Z','2027-03-01T12:00:00.001Z',NULL,'0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95');
CREATE TABLE role (
    position INTEGER PRIMARY KEY, -- the order in which Twenty lists them
    id       TEXT NOT NULL UNIQUE,
    wire     TEXT NOT NULL        -- JSON, by the names of the GraphQL fields
);
INSERT INTO "role" VALUES(1,'0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95','{"id": "0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95", "universalIdentifier": "1b2929f1-6130-4fca-ad30-77685743f2c3", "label": "Admin", "description": "Admin role", "icon": "IconUserCog", "isEditable": false, "canBeAssignedToUsers": true, "canBeAssignedToAgents": false, "canBeAssignedToApiKeys": true, "canUpdateAllSettings": true, "canAccessAllTools": true, "canReadAllObjectRecords": true, "canUpdateAllObjectRecords": true, "canSoftDeleteAllObjectRecords": true, "canDestroyAllObjectRecords": true, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(2,'a1cd10ee-9755-454d-b8a5-4b38af5830e2','{"id": "a1cd10ee-9755-454d-b8a5-4b38af5830e2", "universalIdentifier": "2e082724-c494-41cd-a3e2-a39cddb46482", "label": "Member", "description": "Member role", "icon": "IconUser", "isEditable": true, "canBeAssignedToUsers": true, "canBeAssignedToAgents": false, "canBeAssignedToApiKeys": false, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": true, "canUpdateAllObjectRecords": true, "canSoftDeleteAllObjectRecords": true, "canDestroyAllObjectRecords": true, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(3,'e5baff07-d6fb-4cbd-a6a0-81676d3f9ca1','{"id": "e5baff07-d6fb-4cbd-a6a0-81676d3f9ca1", "universalIdentifier": "8937ff33-d783-4390-a030-a43422794fae", "label": "Restricted", "description": "Restricted role", "icon": "IconUser", "isEditable": true, "canBeAssignedToUsers": true, "canBeAssignedToAgents": false, "canBeAssignedToApiKeys": true, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": false, "canUpdateAllObjectRecords": false, "canSoftDeleteAllObjectRecords": false, "canDestroyAllObjectRecords": false, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(4,'5cdf6ab3-97f0-4559-9e4f-a59dac5feb2c','{"id": "5cdf6ab3-97f0-4559-9e4f-a59dac5feb2c", "universalIdentifier": "252fe55d-071b-43cd-aa2f-5648db3cdfd9", "label": "Integrations", "description": "Integrations role", "icon": "IconPlug", "isEditable": true, "canBeAssignedToUsers": false, "canBeAssignedToAgents": true, "canBeAssignedToApiKeys": true, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": true, "canUpdateAllObjectRecords": true, "canSoftDeleteAllObjectRecords": true, "canDestroyAllObjectRecords": true, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
CREATE TABLE user (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    email    TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL,
    role_id  TEXT NOT NULL
);
INSERT INTO "user" VALUES('defe7544-8fe7-4625-b624-3bffa1e1d63d','admin','admin@sandbox.test','apXeAYEYMqNIP-ttbo-KsekM','0cc74bc2-9a6c-49e4-88dd-cd7206ae8d95');
INSERT INTO "user" VALUES('6ff09c34-cbbc-4e4d-b4ad-17f60c2744fc','member','member@sandbox.test','xdq1b_py6jUuRXFRp7gge3lM','a1cd10ee-9755-454d-b8a5-4b38af5830e2');
INSERT INTO "user" VALUES('f024f8e1-5322-443f-ab23-dd283b0a78e7','guest','guest@sandbox.test','q2lUr2y3fxe1ocfYPaBB8y9w','a1cd10ee-9755-454d-b8a5-4b38af5830e2');
CREATE TABLE workspace (          -- one row
    id       TEXT NOT NULL,
    dialect  TEXT NOT NULL,
    secret   TEXT NOT NULL        -- signs every token
);
INSERT INTO "workspace" VALUES('089a15bf-76a8-4b03-8f3b-7a93336f16bb','core','73b19c38699b418e2507c27767533133e60709d6c6d3aad033920eb287a498f4');
COMMIT;

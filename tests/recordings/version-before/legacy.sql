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
INSERT INTO "api_key" VALUES(1,'c252b351-0d71-47f1-b42c-23b4f72d277b','svc-dated','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,NULL);
INSERT INTO "api_key" VALUES(2,'0b39162b-5082-4147-8f1d-9de632ad91dd','svc-lost','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,NULL);
INSERT INTO "api_key" VALUES(3,'b63f409b-2f72-44d1-b8ee-f55cf5ce69ca','svc-held','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,NULL);
INSERT INTO "api_key" VALUES(4,'452742cc-979a-4c63-a689-0ff191ebf42d','svc-kept','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,NULL);
INSERT INTO "api_key" VALUES(5,'f22e61af-2028-44a3-927e-66a5c28e1594','svc-gone','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,NULL);
INSERT INTO "api_key" VALUES(6,'a640ac7b-4dcd-469a-b068-27010db02153','ops-x','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,NULL);
INSERT INTO "api_key" VALUES(7,'90d6eb94-4b16-426a-8ec4-79a3b48bac70','svc-due','2027-03-11T00:00:00.000Z',NULL,'2027-03-01T12:00:00.001Z','2027-03-01T12:00:00.001Z',NULL,NULL);
INSERT INTO "api_key" VALUES(8,'97d7dc4f-4f2f-4f9d-92e6-87945626f4b2','svc-twice','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.001Z','2027-03-01T12:00:00.001Z',NULL,NULL);
INSERT INTO "api_key" VALUES(9,'d2a7c645-daad-402d-bbb0-9978c68cf714','svc-twice','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.001Z','2027-03-01T12:00:00.001Z',NULL,NULL);
CREATE TABLE role (
    position INTEGER PRIMARY KEY, -- the order in which Twenty lists them
    id       TEXT NOT NULL UNIQUE,
    wire     TEXT NOT NULL        -- JSON, by the names of the GraphQL fields
);
INSERT INTO "role" VALUES(1,'18621669-cd09-4e2a-a2d7-c210f69a6059','{"id": "18621669-cd09-4e2a-a2d7-c210f69a6059", "universalIdentifier": "ab8327a7-86e2-45b8-9b90-ef23c8d91fce", "label": "Guest", "description": "Guest role", "icon": "IconUser", "isEditable": true, "canBeAssignedToUsers": true, "canBeAssignedToAgents": false, "canBeAssignedToApiKeys": false, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": false, "canUpdateAllObjectRecords": false, "canSoftDeleteAllObjectRecords": false, "canDestroyAllObjectRecords": false, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(2,'34279565-021a-4913-bd2c-7bfd57206c72','{"id": "34279565-021a-4913-bd2c-7bfd57206c72", "universalIdentifier": "326c82bc-9b99-4cfc-9c61-5259fcea4315", "label": "Member", "description": "Member role", "icon": "IconUser", "isEditable": true, "canBeAssignedToUsers": true, "canBeAssignedToAgents": false, "canBeAssignedToApiKeys": false, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": true, "canUpdateAllObjectRecords": true, "canSoftDeleteAllObjectRecords": true, "canDestroyAllObjectRecords": true, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(3,'c9ea993d-9787-4b9c-9b41-fab29f9b2a81','{"id": "c9ea993d-9787-4b9c-9b41-fab29f9b2a81", "universalIdentifier": "f5f096c1-0988-468b-a973-347f4a1d0b26", "label": "Admin", "description": "Admin role", "icon": "IconUserCog", "isEditable": false, "canBeAssignedToUsers": true, "canBeAssignedToAgents": false, "canBeAssignedToApiKeys": true, "canUpdateAllSettings": true, "canAccessAllTools": true, "canReadAllObjectRecords": true, "canUpdateAllObjectRecords": true, "canSoftDeleteAllObjectRecords": true, "canDestroyAllObjectRecords": true, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
CREATE TABLE user (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    email    TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL,
    role_id  TEXT NOT NULL
);
INSERT INTO "user" VALUES('442c9a5e-248e-4f56-a7b2-e2e674764fe2','admin','admin@sandbox.test','0RZwv8ibnnW5h0t-a18UdWrN','c9ea993d-9787-4b9c-9b41-fab29f9b2a81');
INSERT INTO "user" VALUES('52c36a66-74a4-4535-8151-5972b59fc9a2','member','member@sandbox.test','w6h3LtFQbKZKg8C0pKf7HdMS','34279565-021a-4913-bd2c-7bfd57206c72');
INSERT INTO "user" VALUES('6dfbc348-8946-47bc-9d91-37bd314272f6','guest','guest@sandbox.test','pFAXOkeyBN6ufxm-jIjMathE','18621669-cd09-4e2a-a2d7-c210f69a6059');
CREATE TABLE workspace (          -- one row
    id       TEXT NOT NULL,
    dialect  TEXT NOT NULL,
    secret   TEXT NOT NULL        -- signs every token
);
INSERT INTO "workspace" VALUES('bd4c1c44-e9e1-43ef-819e-de836c28fa4b','legacy','549642abab5db63ec82bb47a467a772325ff3f320083ec41612eadb4631f40bb');
COMMIT;

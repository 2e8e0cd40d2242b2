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
INSERT INTO "api_key" VALUES(1,'47b1184d-c8c9-4b72-aafb-850b329923ca','svc-dated','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'a1eeb1f9-4572-4312-9207-71d3376af3e8');
INSERT INTO "api_key" VALUES(2,'9b3f808e-11a6-45fc-b325-26266e1f5b6b','svc-lost','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'a1eeb1f9-4572-4312-9207-71d3376af3e8');
INSERT INTO "api_key" VALUES(3,'4f607b84-2269-4a1c-8f16-e94b5b477e36','svc-held','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'a1eeb1f9-4572-4312-9207-71d3376af3e8');
INSERT INTO "api_key" VALUES(4,'9ddaf202-aba8-48ef-994b-da95c1db904f','svc-kept','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'a1eeb1f9-4572-4312-9207-71d3376af3e8');
INSERT INTO "api_key" VALUES(5,'dcff2c70-a870-455f-9952-1df6faea72d0','svc-gone','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'a1eeb1f9-4572-4312-9207-71d3376af3e8');
INSERT INTO "api_key" VALUES(6,'67710341-4b33-4449-9f33-ff8254e64542','ops-x','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.000Z','2027-03-01T12:00:00.000Z',NULL,'a1eeb1f9-4572-4312-9207-71d3376af3e8');
INSERT INTO "api_key" VALUES(7,'065bc348-e0cc-4ebb-9d0d-0888e13d1c98','svc-due','2027-03-11T00:00:00.000Z',NULL,'2027-03-01T12:00:00.001Z','2027-03-01T12:00:00.001Z',NULL,'a1eeb1f9-4572-4312-9207-71d3376af3e8');
INSERT INTO "api_key" VALUES(8,'c651bb9b-ef53-4c71-9dcd-819d284224e9','svc-twice','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.001Z','2027-03-01T12:00:00.001Z',NULL,'a1eeb1f9-4572-4312-9207-71d3376af3e8');
INSERT INTO "api_key" VALUES(9,'0498013b-4d0a-47d7-979e-1c9d285cce9d','svc-twice','2031-01-01T00:00:00.000Z',NULL,'2027-03-01T12:00:00.001Z','2027-03-01T12:00:00.001Z',NULL,'a1eeb1f9-4572-4312-9207-71d3376af3e8');
CREATE TABLE role (
    position INTEGER PRIMARY KEY, -- the order in which Twenty lists them
    id       TEXT NOT NULL UNIQUE,
    wire     TEXT NOT NULL        -- JSON, by the names of the GraphQL fields
);
INSERT INTO "role" VALUES(1,'821320f7-50fd-47c0-800c-a9e72bbecfc3','{"id": "821320f7-50fd-47c0-800c-a9e72bbecfc3", "universalIdentifier": "44e4a238-3bc1-41c4-8c8a-855ee63bc74e", "label": "Workflow Manager", "description": "Workflow Manager role", "icon": "IconUser", "isEditable": true, "canBeAssignedToUsers": false, "canBeAssignedToAgents": true, "canBeAssignedToApiKeys": false, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": false, "canUpdateAllObjectRecords": false, "canSoftDeleteAllObjectRecords": false, "canDestroyAllObjectRecords": false, "permissionFlags": [{"id": "077f2dfe-0fcc-448b-9363-065d352b5eef", "flag": "WORKFLOWS"}], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(2,'41a76f03-0cec-420f-8da0-744cee383ce0','{"id": "41a76f03-0cec-420f-8da0-744cee383ce0", "universalIdentifier": "e20713ea-3f1f-4bdb-8260-1bf232ef1e9e", "label": "Data Navigator", "description": "Data Navigator role", "icon": "IconUser", "isEditable": true, "canBeAssignedToUsers": false, "canBeAssignedToAgents": true, "canBeAssignedToApiKeys": false, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": false, "canUpdateAllObjectRecords": false, "canSoftDeleteAllObjectRecords": false, "canDestroyAllObjectRecords": false, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(3,'22224bba-5a2f-490f-98aa-181acd457f72','{"id": "22224bba-5a2f-490f-98aa-181acd457f72", "universalIdentifier": "a22484dc-9d9a-459e-8e14-bd51550d67b8", "label": "Data Manipulator", "description": "Data Manipulator role", "icon": "IconUser", "isEditable": true, "canBeAssignedToUsers": false, "canBeAssignedToAgents": true, "canBeAssignedToApiKeys": false, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": false, "canUpdateAllObjectRecords": false, "canSoftDeleteAllObjectRecords": false, "canDestroyAllObjectRecords": false, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(4,'a1eeb1f9-4572-4312-9207-71d3376af3e8','{"id": "a1eeb1f9-4572-4312-9207-71d3376af3e8", "universalIdentifier": "8c75d9e4-f733-4a5d-a8e4-c9aa57c84579", "label": "Admin", "description": "Admin role", "icon": "IconUserCog", "isEditable": false, "canBeAssignedToUsers": true, "canBeAssignedToAgents": false, "canBeAssignedToApiKeys": true, "canUpdateAllSettings": true, "canAccessAllTools": true, "canReadAllObjectRecords": true, "canUpdateAllObjectRecords": true, "canSoftDeleteAllObjectRecords": true, "canDestroyAllObjectRecords": true, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(5,'d6bf100a-2b97-4029-b978-1fc7c4f6b03f','{"id": "d6bf100a-2b97-4029-b978-1fc7c4f6b03f", "universalIdentifier": "b63aaa3d-bdf2-40a0-aeac-55c01b0507f4", "label": "Guest", "description": "Guest role", "icon": "IconUser", "isEditable": true, "canBeAssignedToUsers": true, "canBeAssignedToAgents": false, "canBeAssignedToApiKeys": false, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": false, "canUpdateAllObjectRecords": false, "canSoftDeleteAllObjectRecords": false, "canDestroyAllObjectRecords": false, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(6,'62306129-2717-4bc4-91eb-9db147533db1','{"id": "62306129-2717-4bc4-91eb-9db147533db1", "universalIdentifier": "56f92a3e-21ed-425a-ad06-d9fec7ec121f", "label": "Object-restricted", "description": "Object-restricted role", "icon": "IconUser", "isEditable": true, "canBeAssignedToUsers": true, "canBeAssignedToAgents": false, "canBeAssignedToApiKeys": true, "canUpdateAllSettings": true, "canAccessAllTools": true, "canReadAllObjectRecords": false, "canUpdateAllObjectRecords": false, "canSoftDeleteAllObjectRecords": false, "canDestroyAllObjectRecords": false, "permissionFlags": [], "objectPermissions": [{"objectMetadataId": "204aed6d-0f36-4835-8a22-2374011cefef", "canReadObjectRecords": false}, {"objectMetadataId": "fe4a1c72-78d2-40ac-bc2a-a9e3fecb90e9", "canReadObjectRecords": true}], "fieldPermissions": [{"id": "064b46e8-e30d-4b0f-9887-0f9e7440650c"}, {"id": "263fc92d-2978-4bb8-bbab-ce0416d2ad69"}]}');
INSERT INTO "role" VALUES(7,'95321c66-1385-4a35-8b2d-811be464c5bb','{"id": "95321c66-1385-4a35-8b2d-811be464c5bb", "universalIdentifier": "14f635c6-befc-4e44-848d-73fbf564ea2c", "label": "Member", "description": "Member role", "icon": "IconUser", "isEditable": true, "canBeAssignedToUsers": true, "canBeAssignedToAgents": false, "canBeAssignedToApiKeys": false, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": true, "canUpdateAllObjectRecords": true, "canSoftDeleteAllObjectRecords": true, "canDestroyAllObjectRecords": true, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
INSERT INTO "role" VALUES(8,'3eea8c1d-8d66-4d62-94e8-452d529996da','{"id": "3eea8c1d-8d66-4d62-94e8-452d529996da", "universalIdentifier": "d9213142-d5c2-4326-9c4f-5c921a548dc5", "label": "Integrations", "description": "Integrations role", "icon": "IconPlug", "isEditable": true, "canBeAssignedToUsers": false, "canBeAssignedToAgents": true, "canBeAssignedToApiKeys": true, "canUpdateAllSettings": false, "canAccessAllTools": false, "canReadAllObjectRecords": true, "canUpdateAllObjectRecords": true, "canSoftDeleteAllObjectRecords": true, "canDestroyAllObjectRecords": true, "permissionFlags": [], "objectPermissions": [], "fieldPermissions": []}');
CREATE TABLE user (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    email    TEXT NOT NULL UNIQUE,
    password TEXT NOT NULL,
    role_id  TEXT NOT NULL
);
INSERT INTO "user" VALUES('adf3827b-5e4a-4e1b-a9af-695acce5984e','admin','admin@sandbox.test','BgeC4BWTudANvT6UkCx54uqi','a1eeb1f9-4572-4312-9207-71d3376af3e8');
INSERT INTO "user" VALUES('fd41f63a-42a9-4bbe-b6df-3a65054c6901','member','member@sandbox.test','lafRlzmHkuCGDIbi7dk6xwI2','95321c66-1385-4a35-8b2d-811be464c5bb');
INSERT INTO "user" VALUES('8081fcf8-006e-45ff-a8a2-eefa0c3ee917','guest','guest@sandbox.test','q3GhUxoBqi1G81PsHO3zhp3L','d6bf100a-2b97-4029-b978-1fc7c4f6b03f');
CREATE TABLE workspace (          -- one row
    id       TEXT NOT NULL,
    dialect  TEXT NOT NULL,
    secret   TEXT NOT NULL        -- signs every token
);
INSERT INTO "workspace" VALUES('1999cec8-449f-43ca-84fb-2ddd91706292','core-1','1f11b4ae215ae787b3c711207bf1d88cae6dca4c01aba2b9b9c5629f54931583');
COMMIT;

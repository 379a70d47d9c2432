/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET @OLD_CHARACTER_SET_RESULTS=@@CHARACTER_SET_RESULTS */;
/*!40101 SET @OLD_COLLATION_CONNECTION=@@COLLATION_CONNECTION */;
/*!40101 SET NAMES utf8mb4 */;
/*!40103 SET @OLD_TIME_ZONE=@@TIME_ZONE */;
/*!40103 SET TIME_ZONE='+00:00' */;
/*!40014 SET @OLD_UNIQUE_CHECKS=@@UNIQUE_CHECKS, UNIQUE_CHECKS=0 */;
/*!40014 SET @OLD_FOREIGN_KEY_CHECKS=@@FOREIGN_KEY_CHECKS, FOREIGN_KEY_CHECKS=0 */;
/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;
/*!40111 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_NOTES=0 */;
DROP TABLE IF EXISTS `alembic_version`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `alembic_version` (
  `version_num` varchar(32) NOT NULL,
  PRIMARY KEY (`version_num`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `alembic_version` WRITE;
/*!40000 ALTER TABLE `alembic_version` DISABLE KEYS */;
INSERT INTO `alembic_version` VALUES ('0001');
/*!40000 ALTER TABLE `alembic_version` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `backups`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `backups` (
  `id` varchar(36) NOT NULL,
  `tenant_id` varchar(64) NOT NULL,
  `instance_id` varchar(36) NOT NULL,
  `name` varchar(255) NOT NULL,
  `state` varchar(32) NOT NULL,
  `create_time` datetime(6) NOT NULL,
  `update_time` datetime(6) NOT NULL,
  `description` varchar(512) NOT NULL,
  `parent_id` varchar(36) DEFAULT NULL,
  `location` varchar(1024) NOT NULL,
  `size_bytes` bigint(20) NOT NULL,
  `checksum` varchar(128) NOT NULL,
  `reason` varchar(1024) NOT NULL,
  `delete_time` datetime(6) DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `ix_backups_instance_id_state` (`instance_id`,`state`),
  KEY `ix_backups_tenant_id` (`tenant_id`),
  CONSTRAINT `fk_backups_instance_id` FOREIGN KEY (`instance_id`) REFERENCES `instances` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `backups` WRITE;
/*!40000 ALTER TABLE `backups` DISABLE KEYS */;
/*!40000 ALTER TABLE `backups` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `create_requests`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `create_requests` (
  `tenant_id` varchar(64) NOT NULL,
  `request_id` varchar(255) NOT NULL,
  `fingerprint` varchar(64) NOT NULL,
  `instance_id` varchar(36) NOT NULL,
  `operation_id` varchar(36) NOT NULL,
  `create_time` datetime(6) NOT NULL,
  PRIMARY KEY (`tenant_id`,`request_id`),
  KEY `ix_create_requests_create_time` (`create_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `create_requests` WRITE;
/*!40000 ALTER TABLE `create_requests` DISABLE KEYS */;
INSERT INTO `create_requests` VALUES ('demo','first','f','ec956874-af72-481c-a3ec-ee21f172f196','3ea42c78-698a-45b4-a3e9-48dd7c9cd76a','2026-01-01 12:00:00.000000');
/*!40000 ALTER TABLE `create_requests` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `datastore_versions`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `datastore_versions` (
  `id` varchar(36) NOT NULL,
  `datastore_id` varchar(36) NOT NULL,
  `name` varchar(100) NOT NULL,
  `version` varchar(64) NOT NULL,
  `is_active` tinyint(1) NOT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `uq_datastore_versions_datastore_id_name_version` (`datastore_id`,`name`,`version`),
  CONSTRAINT `fk_datastore_versions_datastore_id` FOREIGN KEY (`datastore_id`) REFERENCES `datastores` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `datastore_versions` WRITE;
/*!40000 ALTER TABLE `datastore_versions` DISABLE KEYS */;
INSERT INTO `datastore_versions` VALUES ('a6013724-3086-53e5-9273-04df2765cbe2','57e484dd-2b9c-5f17-985a-5674351284af','15','15',1);
/*!40000 ALTER TABLE `datastore_versions` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `datastores`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `datastores` (
  `id` varchar(36) NOT NULL,
  `name` varchar(255) NOT NULL,
  `manager` varchar(32) NOT NULL,
  `port` bigint(20) NOT NULL,
  `default_version_id` varchar(36) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `uq_datastores_name` (`name`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `datastores` WRITE;
/*!40000 ALTER TABLE `datastores` DISABLE KEYS */;
INSERT INTO `datastores` VALUES ('57e484dd-2b9c-5f17-985a-5674351284af','postgresql','postgresql',5432,'a6013724-3086-53e5-9273-04df2765cbe2');
/*!40000 ALTER TABLE `datastores` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `gateways`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `gateways` (
  `id` varchar(255) NOT NULL,
  `incarnation` varchar(64) NOT NULL,
  `address` varchar(255) NOT NULL,
  `lease_expire_time` datetime(6) NOT NULL,
  PRIMARY KEY (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `gateways` WRITE;
/*!40000 ALTER TABLE `gateways` DISABLE KEYS */;
/*!40000 ALTER TABLE `gateways` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `guest_presence`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `guest_presence` (
  `instance_id` varchar(36) NOT NULL,
  `session_epoch` bigint(20) NOT NULL,
  `sequence` bigint(20) NOT NULL,
  `engine_state` varchar(32) NOT NULL,
  `reason` varchar(1024) NOT NULL,
  `engine_version` varchar(64) NOT NULL,
  `start_count` bigint(20) NOT NULL,
  `volume_total_bytes` bigint(20) NOT NULL,
  `volume_used_bytes` bigint(20) NOT NULL,
  `last_report_time` datetime(6) DEFAULT NULL,
  PRIMARY KEY (`instance_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `guest_presence` WRITE;
/*!40000 ALTER TABLE `guest_presence` DISABLE KEYS */;
INSERT INTO `guest_presence` VALUES ('ec956874-af72-481c-a3ec-ee21f172f196',0,0,'','','',0,0,0,NULL);
/*!40000 ALTER TABLE `guest_presence` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `guest_reports`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `guest_reports` (
  `instance_id` varchar(36) NOT NULL,
  `report_id` varchar(128) NOT NULL,
  `apply_time` datetime(6) NOT NULL,
  PRIMARY KEY (`instance_id`,`report_id`),
  KEY `ix_guest_reports_apply_time` (`apply_time`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `guest_reports` WRITE;
/*!40000 ALTER TABLE `guest_reports` DISABLE KEYS */;
/*!40000 ALTER TABLE `guest_reports` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `guest_sessions`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `guest_sessions` (
  `instance_id` varchar(36) NOT NULL,
  `session_epoch` bigint(20) NOT NULL,
  `gateway_id` varchar(255) NOT NULL,
  `incarnation` varchar(64) NOT NULL,
  `certificate_serial` varchar(64) NOT NULL,
  `boot_id` varchar(255) NOT NULL,
  `agent_version` varchar(64) NOT NULL,
  `open_time` datetime(6) DEFAULT NULL,
  `close_time` datetime(6) DEFAULT NULL,
  `close_reason` varchar(255) NOT NULL,
  PRIMARY KEY (`instance_id`),
  CONSTRAINT `fk_guest_sessions_instance_id` FOREIGN KEY (`instance_id`) REFERENCES `instances` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `guest_sessions` WRITE;
/*!40000 ALTER TABLE `guest_sessions` DISABLE KEYS */;
INSERT INTO `guest_sessions` VALUES ('ec956874-af72-481c-a3ec-ee21f172f196',0,'','','','','',NULL,NULL,'');
/*!40000 ALTER TABLE `guest_sessions` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `instances`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `instances` (
  `id` varchar(36) NOT NULL,
  `tenant_id` varchar(64) NOT NULL,
  `name` varchar(255) NOT NULL,
  `task` varchar(32) NOT NULL,
  `datastore_version_id` varchar(36) NOT NULL,
  `flavor_id` varchar(255) NOT NULL,
  `flavor_name` varchar(255) NOT NULL,
  `flavor_ram_mib` bigint(20) NOT NULL,
  `flavor_vcpus` bigint(20) NOT NULL,
  `flavor_disk_gib` bigint(20) NOT NULL,
  `volume_size_gib` bigint(20) NOT NULL,
  `volume_type` varchar(255) NOT NULL,
  `region` varchar(255) NOT NULL,
  `availability_zone` varchar(255) NOT NULL,
  `is_public` tinyint(1) NOT NULL,
  `allowed_cidrs` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (json_valid(`allowed_cidrs`)),
  `databases` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (json_valid(`databases`)),
  `create_time` datetime(6) NOT NULL,
  `update_time` datetime(6) NOT NULL,
  `last_operation_id` varchar(36) NOT NULL,
  `compute_id` varchar(255) NOT NULL,
  `addresses` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (json_valid(`addresses`)),
  `dns_names` longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL CHECK (json_valid(`dns_names`)),
  `fault_message` text NOT NULL,
  `fault_details` text NOT NULL,
  `fault_time` datetime(6) DEFAULT NULL,
  `delete_time` datetime(6) DEFAULT NULL,
  `generation` bigint(20) NOT NULL,
  `row_version` bigint(20) NOT NULL,
  PRIMARY KEY (`id`),
  KEY `fk_instances_datastore_version_id` (`datastore_version_id`),
  KEY `ix_instances_tenant_id_delete_time_id` (`tenant_id`,`delete_time`,`id`),
  CONSTRAINT `fk_instances_datastore_version_id` FOREIGN KEY (`datastore_version_id`) REFERENCES `datastore_versions` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `instances` WRITE;
/*!40000 ALTER TABLE `instances` DISABLE KEYS */;
INSERT INTO `instances` VALUES ('ec956874-af72-481c-a3ec-ee21f172f196','demo','ünïcode','BUILDING','a6013724-3086-53e5-9273-04df2765cbe2','1','db.tiny',512,1,0,2,'','RegionOne','',0,'[]','[]','2026-01-01 12:00:00.000000','2026-01-01 12:00:00.000000','3ea42c78-698a-45b4-a3e9-48dd7c9cd76a','','[]','[]','','',NULL,NULL,1,1);
/*!40000 ALTER TABLE `instances` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `members`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `members` (
  `id` varchar(36) NOT NULL,
  `topology_id` varchar(36) NOT NULL,
  `instance_id` varchar(36) NOT NULL,
  `role` varchar(32) NOT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `uq_members_instance_id` (`instance_id`),
  KEY `ix_members_topology_id` (`topology_id`),
  CONSTRAINT `fk_members_instance_id` FOREIGN KEY (`instance_id`) REFERENCES `instances` (`id`),
  CONSTRAINT `fk_members_topology_id` FOREIGN KEY (`topology_id`) REFERENCES `topologies` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `members` WRITE;
/*!40000 ALTER TABLE `members` DISABLE KEYS */;
INSERT INTO `members` VALUES ('a09d8bfc-d866-4843-87e4-ea27b2f18e8d','1e4d5375-ff51-4662-91d5-404b3b7f1289','ec956874-af72-481c-a3ec-ee21f172f196','primary');
/*!40000 ALTER TABLE `members` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `operation_secrets`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `operation_secrets` (
  `operation_id` varchar(36) NOT NULL,
  `sealed` mediumblob NOT NULL,
  PRIMARY KEY (`operation_id`),
  CONSTRAINT `fk_operation_secrets_operation_id` FOREIGN KEY (`operation_id`) REFERENCES `operations` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `operation_secrets` WRITE;
/*!40000 ALTER TABLE `operation_secrets` DISABLE KEYS */;
INSERT INTO `operation_secrets` VALUES ('3ea42c78-698a-45b4-a3e9-48dd7c9cd76a',0x7365616C6564);
/*!40000 ALTER TABLE `operation_secrets` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `operation_steps`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `operation_steps` (
  `operation_id` varchar(36) NOT NULL,
  `name` varchar(64) NOT NULL,
  `position` bigint(20) NOT NULL,
  `state` varchar(32) NOT NULL,
  `detail` text NOT NULL,
  `start_time` datetime(6) NOT NULL,
  `end_time` datetime(6) DEFAULT NULL,
  PRIMARY KEY (`operation_id`,`name`),
  CONSTRAINT `fk_operation_steps_operation_id` FOREIGN KEY (`operation_id`) REFERENCES `operations` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `operation_steps` WRITE;
/*!40000 ALTER TABLE `operation_steps` DISABLE KEYS */;
/*!40000 ALTER TABLE `operation_steps` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `operations`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `operations` (
  `id` varchar(36) NOT NULL,
  `kind` varchar(32) NOT NULL,
  `tenant_id` varchar(64) NOT NULL,
  `instance_id` varchar(36) NOT NULL,
  `state` varchar(32) NOT NULL,
  `request_id` varchar(255) NOT NULL,
  `create_time` datetime(6) NOT NULL,
  `fault_message` text NOT NULL,
  `fault_details` text NOT NULL,
  `fault_time` datetime(6) DEFAULT NULL,
  `end_time` datetime(6) DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `ix_operations_end_time_create_time_id` (`end_time`,`create_time`,`id`),
  KEY `ix_operations_instance_id_create_time_id` (`instance_id`,`create_time`,`id`),
  KEY `ix_operations_tenant_id_create_time_id` (`tenant_id`,`create_time`,`id`),
  CONSTRAINT `fk_operations_instance_id` FOREIGN KEY (`instance_id`) REFERENCES `instances` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `operations` WRITE;
/*!40000 ALTER TABLE `operations` DISABLE KEYS */;
INSERT INTO `operations` VALUES ('3ea42c78-698a-45b4-a3e9-48dd7c9cd76a','create_instance','demo','ec956874-af72-481c-a3ec-ee21f172f196','PENDING','req-1','2026-01-01 12:00:00.000000','','',NULL,NULL);
/*!40000 ALTER TABLE `operations` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `quota_reservations`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `quota_reservations` (
  `instance_id` varchar(36) NOT NULL,
  `resource` varchar(32) NOT NULL,
  `tenant_id` varchar(64) NOT NULL,
  `amount` bigint(20) NOT NULL,
  `is_committed` tinyint(1) NOT NULL,
  PRIMARY KEY (`instance_id`,`resource`),
  CONSTRAINT `fk_quota_reservations_instance_id` FOREIGN KEY (`instance_id`) REFERENCES `instances` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `quota_reservations` WRITE;
/*!40000 ALTER TABLE `quota_reservations` DISABLE KEYS */;
INSERT INTO `quota_reservations` VALUES ('ec956874-af72-481c-a3ec-ee21f172f196','instances','demo',1,0);
INSERT INTO `quota_reservations` VALUES ('ec956874-af72-481c-a3ec-ee21f172f196','ram','demo',512,0);
INSERT INTO `quota_reservations` VALUES ('ec956874-af72-481c-a3ec-ee21f172f196','volumes','demo',2,0);
/*!40000 ALTER TABLE `quota_reservations` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `quota_usages`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `quota_usages` (
  `tenant_id` varchar(64) NOT NULL,
  `resource` varchar(32) NOT NULL,
  `in_use` bigint(20) NOT NULL,
  `reserved` bigint(20) NOT NULL,
  PRIMARY KEY (`tenant_id`,`resource`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `quota_usages` WRITE;
/*!40000 ALTER TABLE `quota_usages` DISABLE KEYS */;
INSERT INTO `quota_usages` VALUES ('demo','instances',0,1);
INSERT INTO `quota_usages` VALUES ('demo','ram',0,512);
INSERT INTO `quota_usages` VALUES ('demo','volumes',0,2);
/*!40000 ALTER TABLE `quota_usages` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `quotas`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `quotas` (
  `tenant_id` varchar(64) NOT NULL,
  `resource` varchar(32) NOT NULL,
  `hard_limit` bigint(20) NOT NULL,
  PRIMARY KEY (`tenant_id`,`resource`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `quotas` WRITE;
/*!40000 ALTER TABLE `quotas` DISABLE KEYS */;
/*!40000 ALTER TABLE `quotas` ENABLE KEYS */;
UNLOCK TABLES;
DROP TABLE IF EXISTS `topologies`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
/*!40101 SET character_set_client = utf8mb4 */;
CREATE TABLE `topologies` (
  `id` varchar(36) NOT NULL,
  `tenant_id` varchar(64) NOT NULL,
  `kind` varchar(32) NOT NULL,
  `create_time` datetime(6) NOT NULL,
  `delete_time` datetime(6) DEFAULT NULL,
  PRIMARY KEY (`id`),
  KEY `ix_topologies_tenant_id` (`tenant_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin;
/*!40101 SET character_set_client = @saved_cs_client */;

LOCK TABLES `topologies` WRITE;
/*!40000 ALTER TABLE `topologies` DISABLE KEYS */;
INSERT INTO `topologies` VALUES ('1e4d5375-ff51-4662-91d5-404b3b7f1289','demo','single','2026-01-01 12:00:00.000000',NULL);
/*!40000 ALTER TABLE `topologies` ENABLE KEYS */;
UNLOCK TABLES;
/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;

/*!40101 SET SQL_MODE=@OLD_SQL_MODE */;
/*!40014 SET FOREIGN_KEY_CHECKS=@OLD_FOREIGN_KEY_CHECKS */;
/*!40014 SET UNIQUE_CHECKS=@OLD_UNIQUE_CHECKS */;
/*!40101 SET CHARACTER_SET_CLIENT=@OLD_CHARACTER_SET_CLIENT */;
/*!40101 SET CHARACTER_SET_RESULTS=@OLD_CHARACTER_SET_RESULTS */;
/*!40101 SET COLLATION_CONNECTION=@OLD_COLLATION_CONNECTION */;
/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;

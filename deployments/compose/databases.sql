-- Run once, on an empty volume. Prefect's own database is made by the image; this one is for the records.
CREATE DATABASE fem;

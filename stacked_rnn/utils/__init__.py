"""What any module may use: files, text files, devices."""

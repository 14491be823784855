"""What puts this project on other machines."""

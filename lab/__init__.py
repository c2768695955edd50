"""What measures the product and makes its model. The product imports nothing from here."""

"""What keeps the model alive: settings, queue, health, logs. ``service.build`` puts the parts together."""

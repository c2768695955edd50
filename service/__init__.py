"""What keeps the model alive: settings, queue, health, logs. ``service.app`` puts the parts together."""

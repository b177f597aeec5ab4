"""Workers under load for as long as told, while something breaks all the time: is anything lost, or done twice?"""

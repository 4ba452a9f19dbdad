"""The device-local REST interface of Azure Sphere, as Microsoft's package azuresphere-device-api calls it.

On the chip it answers at 192.168.35.2 over the cable; here on a loopback port, for one device. What is real: the
measured boot and restart, the fuses, the images in the flash and who signed them, the cores that start and stop, the
life cycle, secure storage. What a simulator has not, and therefore answers plainly:

    radio               a scan finds no network and no configured one is ever connected, so none ever failed
    packet filter       the firewall has no rules
    debug server        startDebug is refused
    A7 application      its code does not run: started and stopped is a state that the next boot forgets
    encrypted log       the log is JSON lines, the error report three bytes of a tag, its length, JSON lines
    second key pair     the security state has the identity key alone
"""

/* An independent Modbus server made of libmodbus, for tests: no code of ours and none of pymodbus in it.
 *
 *   libmodbus_server rtu DEVICE UNIT
 *   libmodbus_server tcp
 *
 * Prints "ready", and for TCP the free port it took, when it listens. Reads lines "holding|input ADDRESS VALUE" from stdin and sets that register
 * (answering "set"), or "get ADDRESS" (answering the holding register). Ends at the end of stdin.
 * Registers are set one by one: modbus_set_float_abcd of libmodbus 3.1.6 swaps the bytes within the words.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REGISTERS = 4096 };

static void obey(modbus_mapping_t *map, const char *line) {
    char what[16];
    unsigned address, value;
    if (sscanf(line, "get %u", &address) == 1 && address < REGISTERS) {
        printf("%u\n", map->tab_registers[address]);
    } else if (sscanf(line, "%15s %u %u", what, &address, &value) == 3 && address < REGISTERS) {
        uint16_t *table = strcmp(what, "input") == 0 ? map->tab_input_registers : map->tab_registers;
        table[address] = (uint16_t)value;
        puts("set");
    } else {
        puts("what?");
    }
    fflush(stdout);
}

static int serve(modbus_t *modbus, modbus_mapping_t *map) {
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    int length = modbus_receive(modbus, query);
    if (length > 0)
        modbus_reply(modbus, query, length, map);
    return length;
}

int main(int argc, char **argv) {
    modbus_mapping_t *map = modbus_mapping_new(0, 0, REGISTERS, REGISTERS);
    int rtu = argc == 4 && strcmp(argv[1], "rtu") == 0;
    int listening = -1, talking = -1;
    modbus_t *modbus;
    if (rtu) {
        modbus = modbus_new_rtu(argv[2], 9600, 'N', 8, 1);
        modbus_set_slave(modbus, atoi(argv[3]));
        if (modbus_connect(modbus) < 0)
            return 2;
        talking = modbus_get_socket(modbus);
        puts("ready");
    } else if (argc == 2 && strcmp(argv[1], "tcp") == 0) {
        struct sockaddr_in address;
        socklen_t size = sizeof address;
        modbus = modbus_new_tcp("127.0.0.1", 0);
        listening = modbus_tcp_listen(modbus, 4);
        if (listening < 0 || getsockname(listening, (struct sockaddr *)&address, &size) < 0)
            return 2;
        printf("ready %d\n", ntohs(address.sin_port));
    } else {
        fprintf(stderr, "usage: libmodbus_server rtu DEVICE UNIT | tcp\n");
        return 64;
    }
    fflush(stdout);
    for (;;) {
        fd_set ready;
        FD_ZERO(&ready);
        FD_SET(STDIN_FILENO, &ready);
        int wire = talking >= 0 ? talking : listening;
        FD_SET(wire, &ready);
        if (select(wire + 1, &ready, NULL, NULL, NULL) < 0)
            return errno == EINTR ? 0 : 1;
        if (FD_ISSET(STDIN_FILENO, &ready)) {
            char line[64];
            size_t length = 0; /* byte by byte: stdio would read ahead, and select would not see it */
            ssize_t got;
            while (length < sizeof line - 1 && (got = read(STDIN_FILENO, line + length, 1)) == 1 &&
                   line[length] != '\n')
                length++;
            if (length == 0 && got <= 0)
                return 0;
            line[length] = '\0';
            obey(map, line);
        }
        if (FD_ISSET(wire, &ready)) {
            if (talking < 0)
                talking = modbus_tcp_accept(modbus, &listening);
            else if (serve(modbus, map) < 0 && !rtu) {
                close(talking);
                talking = -1;
            }
        }
    }
}

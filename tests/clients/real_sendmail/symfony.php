<?php
// Sends mails over the transport that a DSN names, as an application with Symfony's Mailer does:
//     php symfony.php DSN NAME
require '/usr/share/php/Symfony/Component/Mailer/autoload.php';
require '/usr/share/php/Symfony/Component/Mime/autoload.php';

use Symfony\Component\Mailer\Exception\TransportExceptionInterface;
use Symfony\Component\Mailer\Mailer;
use Symfony\Component\Mailer\Transport;
use Symfony\Component\Mime\Address;
use Symfony\Component\Mime\Email;

[, $dsn, $name] = $argv;
$mailer = new Mailer(Transport::fromDsn($dsn));
for ($n = 1; $n <= 2; $n++) {
    $mailer->send((new Email())
        ->from(new Address('shop@example.com', 'Größe & Söhne'))
        ->to(new Address('ada@example.org', 'Ada'), 'bob@example.org')
        ->bcc('eve@example.org')
        ->subject("$name $n")
        ->text(".a dot\n..dots\nGrüße\n")
        ->html('<p>Grüße</p>')
        ->attach('a,b', 'table.csv', 'text/csv'));
}

// What is refused is an exception that says why.
try {
    $mailer->send((new Email())->from('shop@example.com')->to(str_repeat('a', 100) . '@example.org')->subject('no')->text('no'));
    exit(2);
} catch (TransportExceptionInterface $refused) {
    echo $refused->getMessage(), "\n";
}

// And the next one goes out all the same.
$mailer->send((new Email())->from('shop@example.com')->to('ada@example.org')->subject("$name 3")->text('after it'));
